"""The report: one HTML file that needs nothing else, made from what is in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from dualproc.types import Evaluation, StepRecord

from .folder import REPORT, WEIGHTS, RunFolder
from .markup import Html, tag
from .numeric import number
from .resolved import Task, task
from .sections import count, curve_section, details, every_picture, picture_section, result_section
from .summary import HACK_METER, JUDGE, KEPT, REFEREE, alarms, judge_against_measurement, outcome, summary_rows, title

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page may load nothing and run nothing, whatever is written in it."""
_UNFINISHED = (
    "Nothing has been measured yet: the run was interrupted or is still going on, so there is no result to show. "
    "An interrupted run goes on with --resume."
)


def write_report(run: RunFolder) -> Path:
    """Write the run's report.html from what is in its folder, finished or not; says where it is.

    RunError if a file of the run is damaged or the report cannot be written.
    """
    return run.write(REPORT, render_report(run))


def render_report(run: RunFolder) -> str:
    """The text of `write_report`."""
    known, records, evaluation = task(run.resolved), run.metrics(), run.read_evaluation()
    name = known.name or run.path.name
    parts = [_header(name, known, records, evaluation)]
    if evaluation is not None:
        parts += [picture_section(run, evaluation), result_section(evaluation, preserve=known.preserve)]
    parts.append(curve_section(records, evaluation))
    if evaluation is not None:
        parts.append(every_picture(evaluation))
    parts += [details("The spec, resolved", tag("pre", run.resolved_text)), _environment(run), _footer(run)]
    return "<!doctype html>\n" + tag("html", _head(name), tag("body", tag("main", *parts)), lang="en") + "\n"


def _head(name: str) -> Html:
    style = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{name} - dualproc"),
        tag("style", Html(style)),
    )


def _header(name: str, known: Task, records: Sequence[StepRecord], evaluation: Evaluation | None) -> Html:
    eyebrow = tag("p", "dualproc", tag("span", name), class_="eyebrow")
    progress = _progress(known, records)
    asked = [tag("p", known.description, class_="asked")] if known.description else []
    asked += [
        tag("p", "Taught by asking ", tag("q", text), " until the answer is ", tag("q", answer), ".", class_="asked")
        for text, answer in known.questions
    ]
    if evaluation is None:
        return tag("header", eyebrow, tag("h1", progress), *asked, _callout(_UNFINISHED, alarming=True))
    prompts = len({prompt.text for prompt in evaluation.prompts})
    about = (
        f"{count(len(evaluation.seeds), 'held-out picture')} of {count(prompts, 'prompt')} that were never trained on, "
        f"the same seeds for base and taught. {progress}."
    )
    callouts = [_callout(note, alarming=True) for note in alarms(evaluation)]
    sentence, alarming = judge_against_measurement(evaluation)
    if not alarming:
        callouts.append(_callout(sentence, alarming=False))
    heading = tag("h1", outcome(evaluation).replace(" -> ", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}"))
    return tag("header", eyebrow, heading, tag("p", about, class_="lead"), *asked, *callouts, _tiles(evaluation))


def _progress(known: Task, records: Sequence[StepRecord]) -> str:
    if not records:
        return "No step has been done yet"
    done = records[-1].step
    of = f" of {known.steps}" if known.steps not in (0, done) else ""
    return f"{done}{of} steps done in {_duration(sum(record.seconds for record in records))}"


def _tiles(evaluation: Evaluation) -> Html:
    """The four numbers to look at first, of those there are."""
    rows = {row.label: row for row in summary_rows(evaluation)}
    first = [f"{title(score)} on target" for score in evaluation.taught.scores[:1]]
    shown = [rows[label] for label in [*first, KEPT, REFEREE, HACK_METER, JUDGE] if label in rows][:4]
    tiles = []
    for row in shown:
        after, before = row.after.split(" ± ")[0], f"base {row.before.split(' ± ')[0]}"
        below = f"{before}, {row.note}" if row.label == HACK_METER and row.note else before
        parts = (tag("span", row.label, class_="label"), tag("strong", after), tag("span", below, class_="before"))
        tiles.append(tag("div", *parts, class_="tile"))
    return tag("div", *tiles, class_="tiles")


def _callout(text: str, *, alarming: bool) -> Html:
    return tag("p", text, class_="callout warn" if alarming else "callout")


def _environment(run: RunFolder) -> Html:
    pairs = [
        tag("div", tag("dt", key.replace("_", " ")), tag("dd", str(value))) for key, value in run.environment.items()
    ]
    return details("Environment", tag("dl", *pairs) if pairs else tag("p", "Not recorded.", class_="about"))


def _footer(run: RunFolder) -> Html:
    if not (run.path / WEIGHTS).exists():
        return tag("footer", tag("p", "The LoRA has not been written yet."))
    code = tag("code", f'pipe.load_lora_weights("{run.path.name}")')
    return tag("footer", tag("p", "To use the LoRA in plain diffusers, at weight 1.0: ", code))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{number(seconds, digits=2)} s"
