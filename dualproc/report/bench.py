"""The table of a bench: one row per spec and variant, and how many reach each target, as JSON and Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dualproc.errors import RunError
from dualproc.run.files import make_folder, write_atomically
from dualproc.run.folder import RESOLVED, RunFolder
from dualproc.run.lora_file import is_whole
from dualproc.run.records import Outcome, to_json
from dualproc.run.resolved import task
from dualproc.types import Evaluation
from dualproc.wording import MISSING, NOT_MEASURED, number, percent, plural, times

from . import markdown
from .numeric import mean, ratio, unmeasured
from .summary import kept, share_on_target, title

TABLE_JSON, TABLE_MARKDOWN, GALLERY = "bench.json", "bench.md", "gallery.png"
"""Files that `dp bench` writes beside the runs."""
HEADINGS = (
    "task", "variant", "measured", "on target", "judge", "judge - on target", "referee", "kept", "diversity",
    "hack meter", "seconds", "memory",
)  # fmt: skip
LEGEND = (
    "`a -> b`: base generator -> trained generator, on the same held-out prompts and seeds. *measured*: the spec's "
    "first scorer, which takes no part in training, mean over the images; *on target*: the share of images within its "
    "accepted range. *judge*, *referee*: mean P(wanted answer); the judge trains, the referee does not. *judge - on "
    "target*, after training: far above 0, the judge accepts images that miss the target (reward hacking). *kept*: "
    "share of images whose subject the referee recognises. *diversity*: as a share of the base's. *hack meter*: as a "
    "multiple of the base's. *seconds*: all training steps, without loading and evaluation. *memory*: peak main memory "
    "of the process, and peak GPU memory of its tensors."
)
_ERROR_LENGTH = 200


@dataclass(frozen=True)
class Change:
    """A number of the base generator and of the trained one; nan where it was not measured."""

    before: float
    after: float


@dataclass(frozen=True)
class Measured:
    """One scorer's numbers."""

    name: str
    unit: str
    target: float | None
    value: Change
    """Mean over the images."""
    on_target: Change
    """Shares of the images; nan if the scorer has no accepted range, or measured no image."""
    accepts: bool
    """Whether the scorer has an accepted range."""
    unmeasured: tuple[str, str]
    """Base and trained images without a value, such as `3 of 66`; empty if all have one."""


@dataclass(frozen=True)
class Result:
    """The numbers of a finished run."""

    images: int
    """Held-out images, base and trained each."""
    scores: tuple[Measured, ...]
    judge: Change
    """Mean P(wanted answer)."""
    referee: Change
    kept: Change
    """Shares of the images whose subject the referee recognises."""
    diversity: Change
    hack_meter: Change
    outcome: Outcome
    machine: str

    @property
    def on_target(self) -> float:
        """The trained generator's share on target of the first scorer; nan if there is none."""
        return self.scores[0].on_target.after if self.scores else math.nan

    @property
    def excess(self) -> float:
        """The trained generator's mean P(wanted answer) by the judge, minus its share on target."""
        return self.judge.after - self.on_target


@dataclass(frozen=True)
class BenchRow:
    """One spec and variant: its numbers, or why there are none."""

    name: str
    variant: str | None
    folder: str
    """The run folder, relative to the bench's folder."""
    result: Result | None = None
    error: str | None = None

    @property
    def label(self) -> str:
        """`line_weight/thin`."""
        return f"{self.name}/{self.variant}" if self.variant else self.name


TARGETS: Mapping[str, Callable[[Result], bool]] = {
    "on target >= 90%": lambda result: result.on_target >= 0.9,
    "kept >= 95%": lambda result: result.kept.after >= 0.95,
    "diversity >= 90%": lambda result: ratio(result.diversity.after, result.diversity.before) >= 0.9,
    "judge - on target <= 0.1": lambda result: result.excess <= 0.1,
    "training <= 60 s": lambda result: result.outcome.seconds <= 60,
}
"""What every trained variant should reach; a nan reaches nothing."""


def is_finished(folder: Path, steps: int = 0) -> bool:
    """Whether the run in `folder` has its whole LoRA and is evaluated, and was planned with at least `steps` steps.

    Raises RunError if its files are damaged.
    """
    if not (folder / RESOLVED).is_file():
        return False
    run = RunFolder.open(folder)
    outcome = run.read_outcome()
    if outcome is None or outcome.interrupted or run.read_evaluation() is None:
        return False
    return task(run.resolved).steps >= steps and all(map(is_whole, run.loras))


def read_result(folder: Path) -> Result:
    """The numbers of a finished run; RunError if it is not finished, or its files are damaged."""
    run = RunFolder.open(folder)
    evaluation, outcome, environment = run.read_evaluation(), run.read_outcome(), run.environment
    if evaluation is None or outcome is None:
        raise RunError(f"the run {folder} is not finished")
    facts = {"gpu": "{}", "cpu_count": "{} CPU cores", "platform": "{}", "python": "Python {}"}
    facts |= {"torch": "torch {}", "dualproc": "dualproc {}"}
    machine = ", ".join(text.format(environment[key]) for key, text in facts.items() if environment.get(key))
    return result_of(evaluation, outcome, machine)


def result_of(evaluation: Evaluation, outcome: Outcome, machine: str) -> Result:
    """The numbers of one evaluation."""
    base, trained = evaluation.base, evaluation.trained
    return Result(
        images=len(evaluation.seeds),
        scores=tuple(
            Measured(
                name=title(after),
                unit=after.unit,
                target=after.target,
                value=Change(mean(before.values), mean(after.values)),
                on_target=Change(share_on_target(before), share_on_target(after)),
                accepts=after.accepted is not None or after.on_target is not None,
                unmeasured=(unmeasured(before.values), unmeasured(after.values)),
            )
            for before, after in zip(base.scores, trained.scores, strict=True)
        ),
        judge=Change(mean(base.judge), mean(trained.judge)),
        referee=Change(mean(base.referee or ()), mean(trained.referee or ())),
        kept=Change(kept(base), kept(trained)),
        diversity=Change(base.diversity, trained.diversity),
        hack_meter=Change(base.hack_meter, trained.hack_meter),
        outcome=outcome,
        machine=machine,
    )


def cells(row: BenchRow) -> tuple[str, ...]:
    """A row of the table: one text for each of `HEADINGS`."""
    head = (row.name, row.variant or "")
    if row.result is None:
        shown = textwrap.shorten(row.error or "not run", _ERROR_LENGTH, placeholder="...")
        return (*head, f"failed: {shown}", *[MISSING] * (len(HEADINGS) - 3))
    result, outcome = row.result, row.result.outcome
    peaks = (outcome.peak_memory, sum(outcome.peak_gpu_memory.values()))
    return (
        *head,
        _measured(result.scores[0]) if result.scores else MISSING,
        on_target_change(row),
        _change(result.judge, number),
        f"{result.excess:+.2f}" if math.isfinite(result.excess) else MISSING,
        _change(result.referee, number),
        _change(result.kept, percent),
        percent(ratio(result.diversity.after, result.diversity.before)),
        times(ratio(result.hack_meter.after, result.hack_meter.before)),
        f"{outcome.seconds:.0f}" if outcome.seconds >= 10 else f"{outcome.seconds:.1f}",
        " + ".join(f"{peak / 1e9:.1f} GB" for peak in peaks if peak) or MISSING,
    )


def on_target_change(row: BenchRow) -> str:
    """`53% -> 79%`, by the first scorer; `not measured` in place of a share if it has no value for any image."""
    scores = row.result.scores if row.result is not None else ()
    return _scored(scores[0].on_target, percent) if scores and scores[0].accepts else MISSING


def reached(rows: Sequence[BenchRow]) -> dict[str, int]:
    """How many rows reach each of the `TARGETS`; failed ones reach none."""
    results = [row.result for row in rows if row.result is not None]
    return {label: sum(map(reaches, results)) for label, reaches in TARGETS.items()}


def footer(rows: Sequence[BenchRow], *, planned: int, command: str) -> list[str]:
    """The lines below the table: what is missing, how many variants reach each target, and where it was measured."""
    results = [row.result for row in rows if row.result is not None]
    lines = []
    if len(rows) < planned:
        lines.append(f"Unfinished: {len(rows)} of {plural(planned, 'variant')} so far.")
    if results:
        counts = "; ".join(f"{label}: {count}" for label, count in reached(rows).items())
        lines.append(f"Targets reached, out of {plural(len(rows), 'variant')}: {counts}.")
        images = sorted({result.images for result in results})
        amount = " to ".join(map(str, dict.fromkeys((images[0], images[-1]))))
        lines += _without_a_value(rows)
        machines = "; ".join(dict.fromkeys(result.machine for result in results))
        lines.append(f"{amount} held-out images per variant; {machines}.")
    return [*lines, f"Made by `{command}`."]


def _without_a_value(rows: Sequence[BenchRow]) -> list[str]:
    """A line that counts the images that the first scorers could not measure; no line if there are none."""
    counts = []
    for row in rows:
        sides = row.result.scores[0].unmeasured if row.result is not None and row.result.scores else ("", "")
        named = [f"{count} {which}" for which, count in zip(("base", "trained"), sides, strict=True) if count]
        counts += [f"{row.label} {', '.join(named)}"] if named else []
    return [f"Images without a value (they count as missed): {'; '.join(counts)}."] if counts else []


def render_markdown(rows: Sequence[BenchRow], *, planned: int, command: str) -> str:
    """The table with its footer and legend."""
    below = map(markdown.text, footer(rows, planned=planned, command=command)[:-1])
    return (
        "\n\n".join([markdown.table(HEADINGS, map(cells, rows)), *below, f"Made by {markdown.code(command)}.", LEGEND])
        + "\n"
    )


def write_table(out: Path, rows: Sequence[BenchRow], *, planned: int, command: str) -> None:
    """Write `bench.json` and `bench.md` into `out`, which is made if it does not exist.

    `rows` are the finished ones so far, out of `planned`; `command` repeats the bench. Raises RunError if a file cannot
    be written.
    """
    make_folder(out)
    content = {"command": command, "planned": planned, "reached": reached(rows), "rows": rows}
    write_atomically(out / TABLE_JSON, to_json(content, indent=1) + "\n")
    write_atomically(out / TABLE_MARKDOWN, render_markdown(rows, planned=planned, command=command))


def _measured(score: Measured) -> str:
    note = score.unit if score.target is None else f"target {score.target:g}"
    return f"{score.name} {_scored(score.value, number)}" + (f" ({note})" if note else "")


def _scored(change: Change, shown: Callable[[float], str]) -> str:
    """A change by a scorer, which may have no value for any base image, any trained one, or both."""
    before, after = (shown(value) if math.isfinite(value) else NOT_MEASURED for value in (change.before, change.after))
    return before if before == after == NOT_MEASURED else f"{before} -> {after}"


def _change(change: Change, shown: Callable[[float], str]) -> str:
    if not math.isfinite(change.before) and not math.isfinite(change.after):
        return MISSING
    return f"{shown(change.before)} -> {shown(change.after)}"
