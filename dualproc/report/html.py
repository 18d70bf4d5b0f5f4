"""The report: one self-contained HTML file, rendered from a run folder by `templates/report.html.jinja`."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from dualproc.kit.image_files import load_image
from dualproc.run import RunFolder
from dualproc.run.folder import REPORT, SAMPLES, WEIGHTS
from dualproc.run.images import BASE, GRID, JUDGE_VIEW, STRIP, TRAINED, png, preview_files
from dualproc.run.resolved import Task, task
from dualproc.types import CalibrationPoint, Evaluation, StepRecord
from dualproc.wording import NOT_MEASURED, duration, number, percent, plural

from . import summary
from .charts import WIDTH, Series, calibration_chart, dot_plot, line_chart
from .samples import sample_files

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy: the browser loads and runs nothing, even if markup from a spec got into the page."""
CARDS = 12
"""How many held-out images the report shows."""
THUMBNAIL = 192
"""Images higher than this (pixels) are downscaled, so that the file stays small."""
PREVIEWS = 6
"""How many previews the report shows, evenly over the steps; the last one is among them."""
NOTEBOOK_IMAGE = 640
"""The same for the base and trained images that a notebook shows."""
_UNFINISHED = (
    "Nothing has been measured yet: the run was interrupted or is still training. Continue an interrupted run with "
    "--resume."
)
_LABELS = {BASE: "base", TRAINED: "trained", JUDGE_VIEW: "judge's view"}


def write_report(run: RunFolder) -> Path:
    """Write the run's report.html from its folder, finished or not; returns its path.

    Raises RunError if a file of the run is damaged, or the report cannot be written.
    """
    return run.write(REPORT, render_report(run))


def render_report(run: RunFolder) -> str:
    """The text of `write_report`."""
    known, records, evaluation, notes = task(run.resolved), run.metrics(), run.read_evaluation(), run.read_warnings()
    progress = _progress(known, records)
    values: dict[str, Any] = {
        "name": known.name or run.path.name,
        "heading": progress,
        "alarms": [_UNFINISHED, *notes],
        "task": known,
        "resolved": run.resolved_text,
        "environment": _environment(run),
        "lora": json.dumps(run.path.name, ensure_ascii=False) if (run.path / WEIGHTS).exists() else "",
        **_curves(records, evaluation),
        "previews": _previews(run),
    }
    if evaluation is not None:
        values |= _header(evaluation, progress, notes) | _results(evaluation, known.preserve) | _cards(run, evaluation)
        values |= _sliders(run, evaluation)
    return page(values)


def _environment(run: RunFolder) -> list[tuple[str, str | int]]:
    """Versions, machine, and the fit's peak memory once it has ended."""
    facts = [(key.replace("_", " "), value) for key, value in run.environment.items() if value is not None]
    outcome = run.read_outcome()
    used = summary.memory_used(outcome) if outcome is not None else ""
    return [*facts, ("peak memory", used)] if used else facts


def render_curves(run: RunFolder) -> str:
    """The curves of a run so far, as SVG figures for a page that has `charts_css`; empty before the first step."""
    return _filled("charts.html.jinja", {"width": WIDTH, "charts": _curves(run.metrics(), None)["curves"]})


def charts_css() -> str:
    """The style sheet of charts; their colours are the variables of `templates/report.css`."""
    return (Path(__file__).parent / "templates" / "charts.css").read_text(encoding="utf-8")


def page(values: Mapping[str, Any]) -> str:
    """The page of the report with these values."""
    return _filled("report.html.jinja", {"width": WIDTH, "policy": POLICY, **values})


def result_html(folder: Path, evaluation: Evaluation, *, notes: Sequence[str], took: str) -> str:
    """The result of a fit for a notebook: the outcome, warnings, the table, base and trained images if they exist."""
    grid = folder / SAMPLES / GRID
    values = {
        "name": str(folder),
        "heading": _arrow(summary.outcome(evaluation)),
        "change": _arrow(summary.change_of_value(evaluation)),
        "verdict": summary.verdict(evaluation),
        "alarms": [*notes, *summary.alarms(evaluation, notes)],
        "rows": summary.summary_rows(evaluation),
        "image": _data_url(grid, height=NOTEBOOK_IMAGE) if grid.exists() else "",
        "took": took,
        "report": str(folder / REPORT),
    }
    return _filled("result.html.jinja", values)


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """A template filled with these values. Everything is escaped: nothing from a spec can become markup."""
    loader = PackageLoader("dualproc.report")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(values).strip() + "\n"


def _arrow(text: str) -> str:
    return text.replace(" -> ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}")


def _header(evaluation: Evaluation, progress: str, notes: Sequence[str]) -> dict[str, Any]:
    images, prompts = len(evaluation.seeds), len({prompt.text for prompt in evaluation.prompts})
    sentence, alarming = summary.judge_against_measurement(evaluation)
    return {
        "heading": _arrow(summary.outcome(evaluation)),
        "verdict": summary.verdict(evaluation),
        "change": _arrow(summary.change_of_value(evaluation)),
        "lead": f"{plural(images, 'held-out image')} of {plural(prompts, 'prompt')} that were never trained on, with "
        f"the same seeds for base and trained. {progress}.",
        "alarms": [*notes, *summary.alarms(evaluation, notes)],
        "remark": "" if alarming else sentence,
        "tiles": _tiles(evaluation),
    }


def _progress(known: Task, records: Sequence[StepRecord]) -> str:
    if not records:
        return "No training step has been done yet"
    done = records[-1].step
    of = f" of {known.steps}" if known.steps not in (0, done) else ""
    return f"{done}{of} training steps done in {duration(sum(record.seconds for record in records))}"


def _tiles(evaluation: Evaluation) -> list[dict[str, str]]:
    """The four most important numbers, of those that were measured."""
    rows = {row.label: row for row in summary.summary_rows(evaluation)}
    first = [f"{summary.title(score)} on target" for score in evaluation.trained.scores[:1]]
    tiles = []
    shown = [*first, summary.KEPT, summary.REFEREE, summary.HACK_METER, summary.JUDGE]
    for row in [rows[label] for label in shown if label in rows][:4]:
        before, after = (text.split(" ± ")[0] for text in (row.before, row.after))
        note = f", {row.note}" if row.label == summary.HACK_METER and row.note else ""
        level = summary.verdict(evaluation).level if row.label in first else ""
        tiles.append({"label": row.label, "value": after, "below": f"base {before}{note}", "level": level})
    return tiles


def _cards(run: RunFolder, evaluation: Evaluation) -> dict[str, Any]:
    """Some held-out images, base beside trained, with the first scorer's value (or else the judge's) of each."""
    base, trained = evaluation.base, evaluation.trained
    before, after = (base.scores[0].values, trained.scores[0].values) if trained.scores else (base.judge, trained.judge)
    cards = [
        {
            "images": [(_data_url(path), _LABELS[kind]) for kind, path in files.items()],
            "prompt": evaluation.prompts[i].text,
            "seed": evaluation.seeds[i],
            "change": " → ".join(
                number(value) if math.isfinite(value) else NOT_MEASURED for value in (before[i], after[i])
            ),
        }
        for i, files in sample_files(run.samples, evaluation, CARDS).items()
        if TRAINED in files
    ]
    total = len(evaluation.seeds)
    note = "" if len(cards) == total else f"{len(cards)} of {total} images; the samples folder has all."
    return {"cards": cards, "cards_note": note if cards else "The run has no images."}


def _previews(run: RunFolder) -> list[dict[str, Any]]:
    """Some previews of the training, each with its step."""
    files = preview_files(run.samples)
    shown = sorted({round((index + 1) * len(files) / PREVIEWS) - 1 for index in range(PREVIEWS)} - {-1})
    return [{"step": files[i][0], "image": _data_url(files[i][1], height=NOTEBOOK_IMAGE)} for i in shown]


def _sliders(run: RunFolder, evaluation: Evaluation) -> dict[str, Any]:
    """For each slider: images at values from end to end, the calibration curve, and its numbers."""
    trained, first = evaluation.trained, evaluation.prompts[0].text
    known = {one.slider: one for one in trained.calibration}
    sliders = []
    for name, asked in evaluation.asked.items():
        file, one = run.samples / STRIP.format(name), known.get(name)
        score = next((score for score in trained.scores if one is not None and score.name == one.scorer), None)
        chart = calibration_chart(one, asked, score.values) if one is not None and score is not None else None
        sliders.append(
            {
                "name": name,
                "strip": _encoded(png(load_image(file))) if file.exists() else "",
                "about": f"{first}, seed {evaluation.seeds[0]}: the first held-out prompt and seed.",
                "charts": [chart] if chart is not None else [],
                "points": [_cells(point) for point in (one.points if one is not None else ())],
            }
        )
    return {"sliders": sliders}


def _cells(point: CalibrationPoint) -> list[str]:
    on_target = math.nan if point.on_target is None else point.on_target
    numbers = (point.asked, point.measured, point.spread, point.error)
    return [*map(number, numbers), percent(on_target), percent(point.kept), number(point.diversity)]


def _encoded(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _data_url(path: Path, *, height: int = THUMBNAIL) -> str:
    from PIL import Image

    image = load_image(path)
    image.thumbnail((image.width, height), Image.Resampling.LANCZOS)
    return _encoded(png(image))


def _results(evaluation: Evaluation, preserve: str) -> dict[str, Any]:
    """The table of results, every scorer's values against its target, and the numbers of every image."""
    base, trained = evaluation.base, evaluation.trained
    possible = {"no scorer": trained.scores, "no referee": trained.referee, "no preserve question": trained.preserved}
    absent = [name for name, values in possible.items() if not values]
    how_kept = f"Subjects kept: share of images where the referee gives the wanted answer to “{preserve}”"
    columns = list(zip(summary.image_columns(base), summary.image_columns(trained), strict=True))
    return {
        "evaluated": True,
        "rows": summary.summary_rows(evaluation),
        "plots": list(filter(None, map(dot_plot, base.scores, trained.scores))),
        "absent": f"The spec names {', '.join(absent)}." if absent else "",
        "how_kept": how_kept if preserve and trained.preserved is not None else "",
        "columns": [name.replace("_", " ") for (name, _), _ in columns],
        "every_image": [
            (prompt.text, seed, [f"{number(before[i])} → {number(after[i])}" for (_, before), (_, after) in columns])
            for i, (prompt, seed) in enumerate(zip(evaluation.prompts, evaluation.seeds, strict=True))
        ],
    }


def _curves(records: Sequence[StepRecord], evaluation: Evaluation | None) -> dict[str, Any]:
    """Everything that was logged, over the training steps."""
    base_hack = evaluation.base.hack_meter if evaluation is not None else math.nan
    anchored = any(record.anchor for record in records)
    charts = [
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
