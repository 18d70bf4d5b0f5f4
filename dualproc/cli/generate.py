"""`dp generate`: images of one or several runs, at values of their sliders and at several strengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dualproc.errors import DualprocError
from dualproc.wording import plural

from .arguments import given_folder, slider_values
from .output import say

AT_A_TIME = 8
"""Images drawn at a time; fewer if a run's evaluation drew fewer, for which memory was enough."""


def generate(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, such as runs/line_weight/thick.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt, such as 'a cartoon of an owl'.")],
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Seed of the first image; the next ones use SEED+1, ...")
    ] = 0,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of images.")] = 1,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SLIDER=VALUE",
            help="Value of a slider: --at row=0.42. A range, such as row=0.3..0.6, draws one seed at -n values. "
            "Repeatable.",
            show_default="the middle of its range",
        ),
    ] = None,
    strength: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NUMBER",
            help="Strength of the LoRA: 1 is as trained, 0 is the base generator. A list, such as 0,0.5,1, draws every "
            "image at each of them. With several runs, one for all, or repeated for each.",
            show_default="1",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for the images.", show_default="RUN/generated")
    ] = None,
) -> None:
    """Generate images with the LoRAs of one or more runs.

    Writes one PNG file per image and prints its path. If a spec has sliders, --at chooses their values. With a range
    of values or a list of strengths, one more file has all images side by side. Several runs need the same generator;
    their LoRAs add up.

    \b
    dp generate runs/line_weight/thick "a cartoon of an owl" --seed 3 -n 4
    dp generate runs/line_weight/thick "a cartoon of an owl" --seed 3 -n 4 --strength 0,0.5,1
    dp generate runs/line_weight/thick runs/palette/retro "a cartoon of an owl" --strength .7 --strength .5
    dp generate runs/horizon "a cartoon of a sheep" --at row=0.42
    dp generate runs/horizon "a cartoon of a sheep" --at row=0.3..0.6 -n 7
    """
    if not prompt.strip():
        raise DualprocError("the prompt is empty", hint='for example "a cartoon of an owl"')
    if len(runs) > 1 and not any(character.isalpha() for character in prompt):  # --strength .7 .7
        raise DualprocError(f"expected a prompt after the runs, got `{prompt}`", hint=_FORM)
    _draw(runs, prompt, slider_values(at or (), count), _strengths(strength or ["1"], runs), seed, count, out)


_FORM = "repeat the option for each run: --strength 0.7 --strength 0.5"


def _strengths(texts: Sequence[str], runs: Sequence[str]) -> list[tuple[float, ...]]:
    """One strength for each run or, with a list, several times: `--strength 0,1 --strength .5` is (0, .5), (1, .5).

    Raises DualprocError if there is neither one for all runs nor one for each, if one is not a number, or if there are
    two lists.
    """
    if len(texts) not in (1, len(runs)):
        each = f", or one for each of {plural(len(runs), 'run')}" if len(runs) > 1 else ""
        raise DualprocError(f"expected one --strength{each}, got {len(texts)}", hint=_FORM if each else _LIST)
    lists = [[_number(text, part) for part in text.split(",")] for text in texts]
    if len(texts) == 1:
        return [(one,) * len(runs) for one in lists[0]]
    several = max(lists, key=len)
    if sum(len(one) > 1 for one in lists) > 1:
        raise DualprocError("only one --strength can be a list", hint="for example --strength 0,0.5,1 --strength 0.7")
    return [tuple(one[0] if one is not several else value for one in lists) for value in several]


_LIST = "for several strengths, write a list: --strength 0,0.5,1"


def _number(text: str, part: str) -> float:
    try:
        value = float(part)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "1 is as trained, 0 is the base generator; 0,0.5,1 is a list"
        raise DualprocError(f"expected finite numbers, got `--strength {text}`", hint=hint)
    return value


def _draw(
    runs: Sequence[str],
    prompt: str,
    places: Sequence[dict[str, float]],
    strengths: Sequence[tuple[float, ...]],
    seed: int,
    count: int,
    out: str | None,
) -> None:
    """Write an image for every value in `places`, strength and seed; with several values, there is only one seed.

    If values or strengths are several, also write a sheet: a row for each strength and a column for each value or,
    with one value, a row for each seed and a column for each strength.
    """
    from .progress import quiet

    quiet()
    import torch

    from dualproc.engine import reload
    from dualproc.report import sheet
    from dualproc.run.folder import GENERATED
    from dualproc.run.images import image_names, write_images, write_png

    specs = [reload.open_run(run)[1] for run in runs]
    for values in places:  # before the models are loaded
        reload.slider_values(specs, values)
    swept = len(places) > 1
    seeds = [seed] if swept else range(seed, seed + count)
    generator, set_lora = reload.load_several(runs)
    generator.prepare([prompt])
    batch = min(AT_A_TIME, *(spec.evaluation.batch for spec in specs))
    folder = Path(runs[0], GENERATED) if out is None else given_folder(out)
    drawn, captions = [], []
    for scales in strengths:
        for values in places:
            set_lora(values, scales)
            images = reload.generate(generator, prompt, seeds, batch=batch)
            ending = _at(values) + _scales(runs, scales)
            for path in write_images(folder, images, image_names([prompt] * len(seeds), seeds, ending=ending)):
                say(str(path))
            drawn.append(images)
            captions.append(_caption(values if swept else {}, scales if len(strengths) > 1 else ()))
    if len(drawn) > 1:
        columns = len(places) if swept else len(strengths)
        order = torch.stack(drawn, 1).flatten(0, 1)  # seed by seed
        ending = ("-strip" if swept else _at(places[0])) + _scales(runs, *strengths)
        (name,) = image_names([prompt], [seed], ending=ending)
        file = write_png(folder / name, sheet(order, captions=captions * len(seeds), columns=columns))
        say(str(file))


def _at(values: dict[str, float]) -> str:
    return "".join(f"-{name}{value:g}" for name, value in values.items())


def _scales(runs: Sequence[str], *strengths: tuple[float, ...]) -> str:
    """The end of a file's name for one or several strengths; empty for a single run at strength 1."""
    if len(runs) == 1 and strengths == ((1.0,),):  # images of other strengths must not replace these
        return ""
    columns = [dict.fromkeys(f"{value:g}" for value in column) for column in zip(*strengths, strict=True)]
    if len(runs) == 1:
        return f"-strength{'_'.join(columns[0])}"
    named = zip(runs, columns, strict=True)
    return "".join(f"-{Path(run).resolve().name}{'_'.join(values)}" for run, values in named)


def _caption(values: dict[str, float], scales: Sequence[float]) -> str:
    """What distinguishes an image in a sheet."""
    strength = f"strength {' '.join(f'{one:.3g}' for one in dict.fromkeys(scales))}" if scales else ""
    return " ".join(filter(None, [*(f"{name} {value:.3g}" for name, value in values.items()), strength]))
