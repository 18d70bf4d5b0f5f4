"""The report: one self-contained HTML file, rendered from a run folder by `templates/report.html.jinja`."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dualproc.run import RunFolder
from dualproc.run.folder import REPORT, WEIGHTS
from dualproc.run.images import BASE, JUDGE_VIEW, TRAINED, image_names, png, spread_out
from dualproc.run.resolved import Task, task
from dualproc.types import Evaluation, StepRecord
from dualproc.wording import duration, plural

from .charts import WIDTH, Chart, Series, dot_plot, line_chart
from .numeric import number
from .summary import HACK_METER, JUDGE, KEPT, REFEREE, alarms, judge_against_measurement, outcome, summary_rows, title

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page may load nothing and run nothing, whatever text it shows."""
CARDS = 12
"""How many held-out images the report shows."""
THUMBNAIL = 192
"""Images higher than this (pixels) are downscaled, so that the file stays small."""
_UNFINISHED = (
    "Nothing has been measured yet: the run was interrupted or is still training. Continue an interrupted run with "
    "--resume."
)
_SETS = ((BASE, "base"), (TRAINED, "trained"), (JUDGE_VIEW, "judge's view"))


class _Tile(NamedTuple):
    label: str
    value: str
    below: str


class _Shown(NamedTuple):
    source: str
    """A data URL."""
    label: str


class _Card(NamedTuple):
    images: list[_Shown]
    prompt: str
    seed: int
    change: str


class _Line(NamedTuple):
    prompt: str
    seed: int
    changes: list[str]


def write_report(run: RunFolder) -> Path:
    """Write the run's report.html from its folder, finished or not; returns its path.

    Raises RunError if a file of the run is damaged, or the report cannot be written.
    """
    return run.write(REPORT, render_report(run))


def render_report(run: RunFolder) -> str:
    """The text of `write_report`."""
    known, records, evaluation = task(run.resolved), run.metrics(), run.read_evaluation()
    name, progress = known.name or run.path.name, _progress(known, records)
    values: dict[str, Any] = {
        "name": name,
        "heading": progress,
        "alarms": [_UNFINISHED],
        "task": known,
        "resolved": run.resolved_text,
        "environment": [(key.replace("_", " "), value) for key, value in run.environment.items()],
        "lora": run.path.name if (run.path / WEIGHTS).exists() else "",
        **_curves(records, evaluation),
    }
    if evaluation is not None:
        values |= _header(evaluation, progress) | _results(evaluation, known.preserve) | _cards(run, evaluation)
    return page(values)


def page(values: Mapping[str, Any]) -> str:
    """The template filled with these values. Everything is escaped: nothing from a spec can become markup."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("dualproc.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.jinja").render(width=WIDTH, policy=POLICY, **values).strip() + "\n"


# --- header ---------------------------------------------------------------------------------------------------------


def _header(evaluation: Evaluation, progress: str) -> dict[str, Any]:
    images, prompts = len(evaluation.seeds), len({prompt.text for prompt in evaluation.prompts})
    sentence, alarming = judge_against_measurement(evaluation)
    return {
        "heading": outcome(evaluation).replace(" -> ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}"),
        "lead": f"{plural(images, 'held-out image')} of {plural(prompts, 'prompt')} that were never trained on, with "
        f"the same seeds for base and trained. {progress}.",
        "alarms": alarms(evaluation),
        "remark": "" if alarming else sentence,
        "tiles": _tiles(evaluation),
    }


def _progress(known: Task, records: Sequence[StepRecord]) -> str:
    if not records:
        return "No training step has been done yet"
    done = records[-1].step
    of = f" of {known.steps}" if known.steps not in (0, done) else ""
    return f"{done}{of} training steps done in {duration(sum(record.seconds for record in records))}"


def _tiles(evaluation: Evaluation) -> list[_Tile]:
    """The four most important numbers, of those that were measured."""
    rows = {row.label: row for row in summary_rows(evaluation)}
    first = [f"{title(score)} on target" for score in evaluation.trained.scores[:1]]
    tiles = []
    for row in [rows[label] for label in [*first, KEPT, REFEREE, HACK_METER, JUDGE] if label in rows][:4]:
        below = f"base {row.before.split(' ± ')[0]}"
        if row.label == HACK_METER and row.note:
            below += f", {row.note}"
        tiles.append(_Tile(row.label, row.after.split(" ± ")[0], below))
    return tiles


# --- images ---------------------------------------------------------------------------------------------------------


def _cards(run: RunFolder, evaluation: Evaluation) -> dict[str, Any]:
    """Some held-out images, base beside trained, with what was measured on each."""
    prompts = [prompt.text for prompt in evaluation.prompts]
    names = image_names(prompts, evaluation.seeds)
    shown = [index for index in spread_out(prompts, CARDS) if (run.samples / TRAINED / names[index]).exists()]
    cards = [
        _Card(
            [
                _Shown(_data_url(path), label)
                for folder, label in _SETS
                if (path := run.samples / folder / names[i]).exists()
            ],
            prompts[i],
            evaluation.seeds[i],
            _change(evaluation, i),
        )
        for i in shown
    ]
    note = "" if len(shown) == len(names) else f"{len(shown)} of {len(names)} images; the samples folder has all."
    return {"cards": cards, "cards_note": note if cards else "The run has no images."}


def _change(evaluation: Evaluation, index: int) -> str:
    """The first scorer's value (or else the judge's) of one image, base and trained."""
    base, trained = evaluation.base, evaluation.trained
    before, after = (base.scores[0].values, trained.scores[0].values) if trained.scores else (base.judge, trained.judge)
    return f"{number(before[index])} → {number(after[index])}"


def _data_url(path: Path) -> str:
    from PIL import Image

    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        if image.height > THUMBNAIL:
            width = round(image.width * THUMBNAIL / image.height)
            content = png(image.resize((width, THUMBNAIL), Image.Resampling.LANCZOS))
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


# --- numbers --------------------------------------------------------------------------------------------------------


def _results(evaluation: Evaluation, preserve: str) -> dict[str, Any]:
    """The table of results, every scorer's values against its target, and the numbers of every image."""
    base, trained = evaluation.base, evaluation.trained
    pairs = list(zip(base.scores, trained.scores, strict=True))
    absent = [
        *(["no scorer"] if not trained.scores else []),
        *(["no referee"] if trained.referee is None else []),
        *(["no preserve question"] if trained.preserved is None else []),
    ]
    asked = preserve and trained.preserved is not None
    columns = [
        *((title(after), before.values, after.values) for before, after in pairs),
        ("judge", base.judge, trained.judge),
        ("referee", base.referee, trained.referee),
        ("subject kept", base.preserved, trained.preserved),
    ]
    measured = [(name, before, after) for name, before, after in columns if before is not None and after is not None]
    return {
        "evaluated": True,
        "rows": summary_rows(evaluation),
        "plots": [plot for plot in (dot_plot(*pair) for pair in pairs) if plot is not None],
        "absent": f"The spec names {', '.join(absent)}." if absent else "",
        "how_kept": f"Subjects kept: share of images where the referee gives the wanted answer to “{preserve}”"
        if asked
        else "",
        "columns": [name for name, _, _ in measured],
        "every_image": [
            _Line(prompt.text, seed, [f"{number(before[i])} → {number(after[i])}" for _, before, after in measured])
            for i, (prompt, seed) in enumerate(zip(evaluation.prompts, evaluation.seeds, strict=True))
        ],
    }


# --- curves ---------------------------------------------------------------------------------------------------------


def _curves(records: Sequence[StepRecord], evaluation: Evaluation | None) -> dict[str, Any]:
    """Everything that was logged, over the training steps."""
    base_hack = evaluation.base.hack_meter if evaluation is not None else math.nan
    anchored = any(record.anchor for record in records)
    charts: list[Chart | None] = [
        line_chart("P(wanted answer)", [_series(records, "p_answer", "judge"), _series(records, "referee", "referee")]),
        line_chart("hack meter", [_series(records, "hack_meter")], from_zero=True, base=base_hack),
        line_chart("reward", [_series(records, "reward")], about="mean of the batch"),
        line_chart("loss", [_series(records, "loss")], about="anchor included"),
        line_chart("anchor", [_series(records, "anchor")], about="part of the loss") if anchored else None,
        line_chart("gradient norm", [_series(records, "grad_norm")], about="all LoRA weights"),
    ]
    drawn = [chart for chart in charts if chart is not None]
    skipped = sum(record.skipped for record in records)
    sentences = [
        f"{plural(skipped, 'step')} skipped: loss or gradient was not finite." if skipped else "",
        "" if anchored else "No anchor was used.",
        "" if any(record.referee is not None for record in records) else "No referee was asked during training.",
    ]
    note = " ".join(filter(None, sentences)) if drawn else "No training step has been logged."
    return {"curves": drawn, "curves_note": note}


def _series(records: Sequence[StepRecord], field: str, label: str = "") -> Series:
    values = ((record.step, getattr(record, field)) for record in records)
    return Series(label, label or "plain", [(float(step), float(value)) for step, value in values if value is not None])
