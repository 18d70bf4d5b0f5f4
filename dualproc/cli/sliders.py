"""`dp export`, and the images of `dp generate`: a run's LoRA, at values of its sliders if it has any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.errors import DualprocError

from .arguments import At, given_folder, one_place, slider_values
from .output import say

if TYPE_CHECKING:
    from collections.abc import Sequence

AT_A_TIME = 8
"""Images drawn at a time; fewer if the run's evaluation drew fewer, for which memory was enough."""


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run folder of a spec with sliders.")],
    at: At = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the LoRA.")] = "",
) -> None:
    """Save one value of a slider as an ordinary LoRA.

    Writes the LoRA's files into DIR. Every tool loads them like any other LoRA, at weight 1.0.

    \b
    dp export runs/horizon --at row=0.42 --out horizon-0.42
    """
    if not at:
        raise DualprocError("`--at` is missing", hint="for example --at row=0.42")
    values, folder = one_place(at), given_folder(out)
    from .progress import quiet

    quiet()
    from dualproc.engine.reload import export as save
    from dualproc.run.folder import WEIGHTS

    save(run, values, folder)
    say(str(folder / WEIGHTS))


def generate_at(
    run: str, prompt: str, at: Sequence[str], *, seed: int, count: int, strength: float, out: str | None
) -> None:
    """`dp generate`: `count` seeds at one value of each slider, or with a range one seed at `count` values and a strip.

    Without `at`, sliders are in the middle.
    """
    places = slider_values(at, count)
    from .progress import quiet

    quiet()
    import torch

    from dualproc.engine.reload import generate as draw
    from dualproc.engine.reload import load_generator, open_run
    from dualproc.engine.sliders import set_sliders
    from dualproc.report import sheet
    from dualproc.run.images import image_names, write_images, write_png
    from dualproc.spec.sliders import complete

    opened, spec = open_run(run)
    for values in places:  # before the models are loaded
        complete(spec.sliders, values)
    swept = len(places) > 1
    seeds = [seed] if swept else range(seed, seed + count)
    generator = load_generator(run)
    generator.prepare([prompt])
    folder = opened.generated() if out is None else given_folder(out)
    scale = "" if strength == 1 else f"-strength{strength:g}"  # do not replace the images of strength 1
    drawn = []
    for values in places:
        set_sliders(generator, spec, values, strength=strength)
        images = draw(generator, prompt, seeds, batch=min(AT_A_TIME, spec.evaluation.batch))
        chosen = "".join(f"-{name}{value:g}" for name, value in values.items())
        for path in write_images(folder, images, image_names([prompt] * len(seeds), seeds, ending=chosen + scale)):
            say(str(path))
        drawn.append(images)
    if swept:
        captions = [" ".join(f"{name} {value:.3g}" for name, value in values.items()) for values in places]
        (file,) = image_names([prompt], [seed], ending=f"-strip{scale}")
        strip = sheet(torch.cat(drawn), captions=captions, columns=len(captions))
        say(str(write_png(folder / file, strip)))
