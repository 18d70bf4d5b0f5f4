"""The parts of the report that show pictures, numbers and curves."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path

from dualproc.types import Evaluation, Prompt, StepRecord

from .charts import Series, dot_plot, line_chart
from .folder import RunFolder
from .markup import Html, tag
from .numeric import number
from .pictures import BASE, OVERLAID, TAUGHT, picture_names, png, spread_out
from .summary import summary_rows, title

PICTURES = 12
"""How many pictures the report shows."""
THUMBNAIL = 192
"""Pictures higher than this (pixels) are reduced to it, so that the file stays small."""

_SETS = ((BASE, "base"), (TAUGHT, "taught"), (OVERLAID, "judge's view"))


def section(heading: str, *children: Html | None) -> Html:
    """A part of the page under a heading."""
    return tag("section", tag("h2", heading), *children)


def details(summary: str, body: Html) -> Html:
    """A part of the page that opens on a click."""
    return tag("details", tag("summary", summary), body)


def count(amount: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{amount} {noun}" if amount == 1 else f"{amount} {noun}s"


def remark(text: str) -> Html | None:
    """A line of small print; None if there is nothing to say."""
    return tag("p", text, class_="about") if text else None


# --- pictures -------------------------------------------------------------------------------------------------------


def picture_section(run: RunFolder, evaluation: Evaluation) -> Html:
    """Some pictures, base beside taught, with what was measured on each."""
    prompts = [prompt.text for prompt in evaluation.prompts]
    names = picture_names(prompts, evaluation.seeds)
    shown = [index for index in spread_out(prompts, PICTURES) if (run.samples / TAUGHT / names[index]).exists()]
    if not shown:
        return section("Before and after", remark("The run has no pictures."))
    cards = [
        tag(
            "figure",
            tag("div", *(_picture(run.samples / folder / names[i], label) for folder, label in _SETS), class_="strip"),
            tag("figcaption", prompts[i], tag("span", _change(evaluation, i), title=f"seed {evaluation.seeds[i]}")),
        )
        for i in shown
    ]
    about = "" if len(shown) == len(names) else f"{len(shown)} of {len(names)} pictures; all are in the samples folder."
    return section("Before and after", tag("div", *cards, class_="cards"), remark(about))


def _change(evaluation: Evaluation, index: int) -> str:
    """What the first scorer (else the judge) says of one picture, before and after."""
    base, taught = evaluation.base, evaluation.taught
    before, after = (base.scores[0].values, taught.scores[0].values) if taught.scores else (base.judge, taught.judge)
    return f"{number(before[index])} → {number(after[index])}"


def _picture(path: Path, label: str) -> Html | None:
    if not path.exists():
        return None
    source = "data:image/png;base64," + base64.b64encode(_thumbnail(path)).decode("ascii")
    return tag("div", tag("img", src=source, alt=label), tag("span", label))


def _thumbnail(path: Path) -> bytes:
    from PIL import Image

    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        if picture.height <= THUMBNAIL:
            return content
        width = round(picture.width * THUMBNAIL / picture.height)
        return png(picture.resize((width, THUMBNAIL), Image.Resampling.LANCZOS))


# --- numbers --------------------------------------------------------------------------------------------------------


def result_section(evaluation: Evaluation, *, preserve: str) -> Html:
    """The table of results, and every scorer's values against its target."""
    cells = [
        (tag("th", row.label, scope="row"), tag("td", row.before), tag("td", row.after, class_="after"),
         tag("td", row.note, class_="note"))
        for row in summary_rows(evaluation)
    ]  # fmt: skip
    table = _table(("measured", "base", "taught", ""), cells)
    pairs = zip(evaluation.base.scores, evaluation.taught.scores, strict=True)
    plots = [plot for plot in (dot_plot(base, taught) for base, taught in pairs) if plot is not None]
    left = tag("div", table, remark(_what_is_missing(evaluation)), remark(_how_kept(evaluation, preserve)))
    return section("Base and taught", tag("div", left, tag("div", *plots), class_="split" if plots else "whole"))


def _what_is_missing(evaluation: Evaluation) -> str:
    taught = evaluation.taught
    absent = [
        *(["no scorer"] if not taught.scores else []),
        *(["no referee"] if taught.referee is None else []),
        *(["no preserve question"] if taught.preserved is None else []),
    ]
    return f"The spec names {', '.join(absent)}." if absent else ""


def _how_kept(evaluation: Evaluation, preserve: str) -> str:
    known = preserve and evaluation.taught.preserved is not None
    return f"Whether a subject is kept, the referee says by answering: {preserve}" if known else ""


def every_picture(evaluation: Evaluation) -> Html:
    """All numbers of all pictures."""
    base, taught = evaluation.base, evaluation.taught
    scores = zip(base.scores, taught.scores, strict=True)
    columns = [
        *((title(after), before.values, after.values) for before, after in scores),
        ("judge", base.judge, taught.judge),
        ("referee", base.referee, taught.referee),
        ("subject kept", base.preserved, taught.preserved),
    ]
    shown = [(label, before, after) for label, before, after in columns if before is not None and after is not None]

    def cells(index: int, prompt: Prompt, seed: int) -> list[Html]:
        changes = [tag("td", f"{number(before[index])} → {number(after[index])}") for _, before, after in shown]
        return [tag("th", prompt.text, scope="row"), tag("td", str(seed)), *changes]

    pictures = enumerate(zip(evaluation.prompts, evaluation.seeds, strict=True))
    rows = [cells(index, prompt, seed) for index, (prompt, seed) in pictures]
    return details("Every picture's numbers", _table(("prompt", "seed", *(label for label, _, _ in shown)), rows))


def _table(head: Sequence[str], rows: Sequence[Sequence[Html]]) -> Html:
    top = tag("tr", *(tag("th", text, scope="col") for text in head))
    return tag(
        "div", tag("table", tag("thead", top), tag("tbody", *(tag("tr", *row) for row in rows))), class_="scroll"
    )


# --- curves ---------------------------------------------------------------------------------------------------------


def curve_section(records: Sequence[StepRecord], evaluation: Evaluation | None) -> Html:
    """Everything that was logged, over the steps."""
    base_hack = evaluation.base.hack_meter if evaluation is not None else math.nan
    figures = [
        line_chart("P(wanted answer)", [_series(records, "p_answer", "judge"), _series(records, "referee", "referee")]),
        line_chart("hack meter", [_series(records, "hack_meter")], from_zero=True, base=base_hack),
        line_chart("reward", [_series(records, "reward")], about="mean of the batch"),
        line_chart("loss", [_series(records, "loss")], about="anchor included"),
        line_chart("anchor", [_series(records, "anchor")], about="part of the loss") if _anchored(records) else None,
        line_chart("gradient norm", [_series(records, "grad_norm")], about="all LoRA weights"),
    ]
    drawn = [figure for figure in figures if figure is not None]
    if not drawn:
        return section("Over the steps", remark("No step has been logged."))
    return section("Over the steps", tag("div", *drawn, class_="charts"), remark(_what_happened(records)))


def _what_happened(records: Sequence[StepRecord]) -> str:
    skipped = sum(record.skipped for record in records)
    watched = any(record.referee is not None for record in records)
    sentences = [
        f"{count(skipped, 'step')} skipped: loss or gradient was not finite." if skipped else "",
        "" if _anchored(records) else "No anchor was at work.",
        "" if watched else "No referee was asked during the fit.",
    ]
    return " ".join(filter(None, sentences))


def _series(records: Sequence[StepRecord], field: str, label: str = "") -> Series:
    values = ((record.step, getattr(record, field)) for record in records)
    return Series(label, label or "plain", [(float(step), float(value)) for step, value in values if value is not None])


def _anchored(records: Sequence[StepRecord]) -> bool:
    return any(record.anchor for record in records)
