"""Several runs side by side: one self-contained HTML file, rendered by `templates/compare.html.jinja`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from dualproc.errors import RunError
from dualproc.run import RunFolder
from dualproc.run.images import BASE, TRAINED
from dualproc.run.resolved import differing_keys
from dualproc.types import Evaluation
from dualproc.wording import MISSING, plural

from .html import CARDS, POLICY, _data_url
from .samples import sample_files
from .summary import summary_rows


def render_comparison(runs: Sequence[RunFolder]) -> str:
    """The page: results, settings that differ, and the same held-out images of all runs. Nothing is measured again.

    Raises RunError if there are fewer than two runs, or one has no evaluation or is damaged.
    """
    if len(runs) < 2:
        raise RunError(f"a comparison needs two or more runs, got {len(runs)}")
    evaluations = [_evaluation(run) for run in runs]
    same = len({_images(evaluation) for evaluation in evaluations}) == 1
    images = plural(len(evaluations[0].seeds), "held-out image")
    values = {
        "names": [str(run.path) for run in runs],
        "lead": f"The same {images} in every run."
        if same
        else "The runs were evaluated on different prompts or seeds, so their numbers cannot be compared directly.",
        "comparable": same,
        "rows": _rows(evaluations),
        "settings": _settings([run.resolved for run in runs]),
        "cards": _cards(runs, evaluations),
    }
    environment = Environment(
        loader=PackageLoader("dualproc.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("compare.html.jinja").render(policy=POLICY, **values).strip() + "\n"


def _evaluation(run: RunFolder) -> Evaluation:
    found = run.read_evaluation()
    if found is None:
        raise RunError(f"{run.path} has no evaluation", hint="finish the run first, with `dp run ... --resume`")
    return found


def _images(evaluation: Evaluation) -> tuple[tuple[str, int], ...]:
    texts = (prompt.text for prompt in evaluation.prompts)
    return tuple(zip(texts, evaluation.seeds, strict=True))


def _rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, list[tuple[str, str]]]]:
    """For everything that any run measured: its name, and base and trained number of each run."""
    tables = [{row.label: (row.before, row.after) for row in summary_rows(one)} for one in evaluations]
    labels = dict.fromkeys(label for table in tables for label in table)
    return [(label, [table.get(label, (MISSING, MISSING)) for table in tables]) for label in labels]


def _settings(specs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The keys whose values are not the same in all resolved specs, with the value of each."""
    keys = sorted({key for other in specs[1:] for key in differing_keys(specs[0], other)})
    return [(key, [_value(spec, key) for spec in specs]) for key in keys]


def _value(spec: Mapping[str, Any], key: str) -> str:
    value: Any = spec
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return MISSING if value is None else str(value)


def _cards(runs: Sequence[RunFolder], evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Some held-out images of the first run: its base, and the trained image of every run that has it."""
    cards = []
    for index, files in sample_files(runs[0].samples, evaluations[0], CARDS).items():
        if BASE not in files:
            continue
        paths = [(files[BASE], "base")]
        paths += [(run.samples / TRAINED / files[BASE].name, str(number)) for number, run in enumerate(runs, start=1)]
        cards.append(
            {
                "images": [(_data_url(path), label) for path, label in paths if path.exists()],
                "prompt": evaluations[0].prompts[index].text,
                "seed": evaluations[0].seeds[index],
            }
        )
    return cards
