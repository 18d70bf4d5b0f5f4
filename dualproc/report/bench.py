"""The table of a bench or a sweep: one row per spec, variant and setting, as JSON and Markdown.

With several seeds, a row has their mean and range.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from .numeric import mean, measured, ratio, unmeasured
from .summary import kept, share_on_target, title

BENCH = "bench"
TABLE_JSON, TABLE_MARKDOWN, GALLERY = f"{BENCH}.json", f"{BENCH}.md", "gallery.png"
"""Files that `dp bench` writes beside the runs."""
HEADINGS = (
    "task", "variant", "measured", "on target", "judge", "judge - on target", "referee", "kept", "diversity",
    "beyond the task", "hack meter", "seconds", "memory",
)  # fmt: skip
LEGEND = (
    "`a -> b`: base generator -> trained generator, on the same held-out prompts and seeds. *measured*: the spec's "
    "first scorer, which takes no part in training, mean over the images; *on target*: the share of images within its "
    "accepted range. *judge*, *referee*: mean P(wanted answer); the judge trains, the referee does not. *judge - on "
    "target*, after training: far above 0, the judge accepts images that miss the target (reward hacking). *kept*: "
    "share of images whose subject the referee recognises. *diversity*: as a share of the base's. *beyond the "
    "task*: as a share of that of base images that are as alike in the task itself. *hack meter*: as a "
    "multiple of the base's. *seconds*: all training steps, without loading and evaluation. *memory*: peak main memory "
    "of the process, and peak GPU memory of its tensors."
)
SEEDS_LEGEND = (
    "With several seeds, a number is their mean; in brackets, the trained generator's lowest and highest seed."
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
    beyond: float
    """The trained generator's diversity as a share of `Measurement.alike_diversity`."""
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
    """One fit of a bench: its numbers, or why there are none."""

    name: str
    variant: str | None
    folder: str
    """The run folder, relative to the bench's folder."""
    result: Result | None = None
    error: str | None = None
    setting: str = ""
    """In a sweep, the values from the grid, such as `train.lr=5e-5, train.batch=8`."""
    seed: int | None = None
    """`train.seed`; None if only the spec's own is trained."""

    @property
    def label(self) -> str:
        """`line_weight/thin`, or `line_weight/thin, train.lr=5e-5, seed 1`."""
        name = f"{self.name}/{self.variant}" if self.variant else self.name
        return ", ".join(filter(None, (name, self.setting, "" if self.seed is None else f"seed {self.seed}")))


ON_TARGET = "on target >= 90%"
TARGETS: Mapping[str, Callable[[Result], bool]] = {
    ON_TARGET: lambda result: result.on_target >= 0.9,
    "kept >= 95%": lambda result: result.kept.after >= 0.95,
    "diversity >= 90%": lambda result: ratio(result.diversity.after, result.diversity.before) >= 0.9,
    "diversity beyond the task >= 90%": lambda result: result.beyond >= 0.9,
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
        beyond=ratio(trained.diversity, base.alike_diversity),
        hack_meter=Change(base.hack_meter, trained.hack_meter),
        outcome=outcome,
        machine=machine,
    )


def grouped(rows: Sequence[BenchRow]) -> list[list[BenchRow]]:
    """The rows that differ in nothing but the seed, together."""
    groups: dict[object, list[BenchRow]] = {}
    for index, row in enumerate(rows):
        key = index if row.seed is None else (row.name, row.variant, row.setting)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def several_seeds(rows: Sequence[BenchRow]) -> bool:
    """Whether the rows are of several seeds each, as planned."""
    return any(row.seed is not None for row in rows)


def table(rows: Sequence[BenchRow]) -> list[tuple[str, ...]]:
    """The headings, then one row of texts per spec, variant and setting."""
    settings, seeds = any(row.setting for row in rows), several_seeds(rows)

    def line(standard: Sequence[str], setting: str, reaching: str) -> tuple[str, ...]:
        return (*standard[:2], *([setting] if settings else []), *standard[2:], *([reaching] if seeds else []))

    lines = [line(HEADINGS, "setting", ON_TARGET)]
    return lines + [line(cells(*group), group[0].setting, _seeds_on_target(group)) for group in grouped(rows)]


def cells(row: BenchRow, *seeds: BenchRow) -> tuple[str, ...]:
    """A row of the table: one text for each of `HEADINGS`. `seeds` are rows of the same fit with other seeds."""
    head = (row.name, row.variant or "")
    results = [one.result for one in (row, *seeds) if one.result is not None]
    if not results:
        shown = textwrap.shorten(row.error or "not run", _ERROR_LENGTH, placeholder="...")
        return (*head, f"failed: {shown}", *[MISSING] * (len(HEADINGS) - 3))
    outcomes = [result.outcome for result in results]
    peaks = [
        max(outcome.peak_memory or 0 for outcome in outcomes),
        max(sum(outcome.peak_gpu_memory.values()) for outcome in outcomes),
    ]
    return (
        *head,
        _measured([result.scores[0] for result in results]) if results[0].scores else MISSING,
        on_target_change(row, *seeds),
        _change([result.judge for result in results], number),
        _single([result.excess for result in results], "{:+.2f}".format),
        _change([result.referee for result in results], number),
        _change([result.kept for result in results], percent),
        _single([diversity_share(result) for result in results], percent),
        _single([result.beyond for result in results], percent),
        _single([ratio(result.hack_meter.after, result.hack_meter.before) for result in results], times),
        _single([outcome.seconds for outcome in outcomes], lambda s: f"{s:.0f}" if s >= 10 else f"{s:.1f}"),
        " + ".join(f"{peak / 1e9:.1f} GB" for peak in peaks if peak) or MISSING,
    )


def diversity_share(result: Result) -> float:
    """The trained generator's diversity as a share of the base's."""
    return ratio(result.diversity.after, result.diversity.before)


def on_target_change(row: BenchRow, *seeds: BenchRow) -> str:
    """`53% -> 79%`, by the first scorer; `not measured` in place of a share if it has no value for any image."""
    first = [one.result.scores[0] for one in (row, *seeds) if one.result is not None and one.result.scores]
    return _scored([score.on_target for score in first], percent) if first and first[0].accepts else MISSING


def _seeds_on_target(group: Sequence[BenchRow]) -> str:
    """`1 of 2 seeds`: how many reach the target of the share on target."""
    count = sum(row.result is not None and TARGETS[ON_TARGET](row.result) for row in group)
    failed = sum(row.result is None for row in group)
    return f"{count} of {plural(len(group), 'seed')}" + (f" ({failed} failed)" if failed else "")


def reached(rows: Sequence[BenchRow]) -> dict[str, int]:
    """How many variants reach each of the `TARGETS`, with every seed; failed ones reach none."""
    return {label: sum(all(reaches) for _, reaches in groups) for label, groups in _reaching(rows).items()}


def _reaching(rows: Sequence[BenchRow]) -> dict[str, list[tuple[str, list[bool]]]]:
    """For each target and each variant, by name: whether each seed reaches it."""
    groups = [(replace(group[0], seed=None).label, group) for group in grouped(rows)]
    return {
        label: [(name, [row.result is not None and reaches(row.result) for row in group]) for name, group in groups]
        for label, reaches in TARGETS.items()
    }


def footer(rows: Sequence[BenchRow], *, planned: int, command: str) -> list[str]:
    """The lines below the table: what is missing, how many variants reach each target, and where it was measured."""
    results = [row.result for row in rows if row.result is not None]
    seeds, groups = several_seeds(rows), grouped(rows)
    what = "setting" if any(row.setting for row in rows) else "variant"
    lines = []
    if len(rows) < planned:
        lines.append(f"Unfinished: {len(rows)} of {plural(planned, 'fit' if seeds else what)} so far.")
    if results:
        counts = "; ".join(f"{label}: {count}" for label, count in reached(rows).items())
        by = " by every seed" if seeds else ""
        lines.append(f"Targets reached{by}, out of {plural(len(groups), what)}: {counts}.")
        lines += _by_some_seeds(rows)
        images = sorted({result.images for result in results})
        amount = " to ".join(map(str, dict.fromkeys((images[0], images[-1]))))
        lines += _without_a_value(rows)
        machines = "; ".join(dict.fromkeys(result.machine for result in results))
        lines.append(f"{amount} held-out images per {'fit' if seeds else what}; {machines}.")
    return [*lines, f"Made by `{command}`."]


def _by_some_seeds(rows: Sequence[BenchRow]) -> list[str]:
    """A line that names what only some seeds of a variant reach; no line if all agree."""
    mixed = [
        f"{name} {label}: {sum(reaches)} of {plural(len(reaches), 'seed')}"
        for label, groups in _reaching(rows).items()
        for name, reaches in groups
        if any(reaches) and not all(reaches)
    ]
    return [f"Reached by some seeds only: {'; '.join(mixed)}."] if mixed else []


def _without_a_value(rows: Sequence[BenchRow]) -> list[str]:
    """A line that counts the images that the first scorers could not measure; no line if there are none."""
    counts = []
    for row in rows:
        sides = row.result.scores[0].unmeasured if row.result is not None and row.result.scores else ("", "")
        named = [f"{count} {which}" for which, count in zip(("base", "trained"), sides, strict=True) if count]
        counts += [f"{row.label} {', '.join(named)}"] if named else []
    return [f"Images without a value (they count as missed): {'; '.join(counts)}."] if counts else []


def render_markdown(rows: Sequence[BenchRow], *, planned: int, command: str, more: Sequence[str] = ()) -> str:
    """The table; below it the lines of `more`, the footer and the legend."""
    headings, *lines = table(rows)
    below = map(markdown.text, [*more, *footer(rows, planned=planned, command=command)[:-1]])
    legend = f"{LEGEND} {SEEDS_LEGEND}" if several_seeds(rows) else LEGEND
    return "\n\n".join([markdown.table(headings, lines), *below, f"Made by {markdown.code(command)}.", legend]) + "\n"


def write_table(
    out: Path,
    rows: Sequence[BenchRow],
    *,
    planned: int,
    command: str,
    name: str = BENCH,
    more: Sequence[str] = (),
) -> None:
    """Write `bench.json` and `bench.md` into `out`, which is made if it does not exist.

    `rows` are the finished ones so far, out of `planned` fits; `command` repeats the bench; `name` replaces `bench` in
    the names of the files; `more` are lines for the first place below the table. Raises RunError if a file cannot be
    written.
    """
    make_folder(out)
    content = {"command": command, "planned": planned, "reached": reached(rows), "rows": rows}
    write_atomically(out / f"{name}.json", to_json(content, indent=1) + "\n")
    write_atomically(out / f"{name}.md", render_markdown(rows, planned=planned, command=command, more=more))


def _measured(scores: Sequence[Measured]) -> str:
    first = scores[0]
    note = first.unit if first.target is None else f"target {first.target:g}"
    return f"{first.name} {_scored([score.value for score in scores], number)}" + (f" ({note})" if note else "")


def _scored(changes: Sequence[Change], shown: Callable[[float], str]) -> str:
    """A change by a scorer, which may have no value for any base image, any trained one, or both."""
    means = mean([change.before for change in changes]), mean([change.after for change in changes])
    before, after = (shown(value) if math.isfinite(value) else NOT_MEASURED for value in means)
    return before if before == after == NOT_MEASURED else f"{before} -> {after}{_range(changes, shown)}"


def _change(changes: Sequence[Change], shown: Callable[[float], str]) -> str:
    before, after = mean([change.before for change in changes]), mean([change.after for change in changes])
    if not math.isfinite(before) and not math.isfinite(after):
        return MISSING
    return f"{shown(before)} -> {shown(after)}{_range(changes, shown)}"


def _single(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """The mean of one number over the seeds, and its range."""
    both = [Change(math.nan, value) for value in values]
    return f"{shown(mean(values))}{_range(both, shown)}" if measured(values) else MISSING


def _range(changes: Sequence[Change], shown: Callable[[float], str]) -> str:
    """` (71% to 85%)`, of the trained generator; empty for a single value."""
    after = measured([change.after for change in changes])
    ends = [shown(end) for end in (min(after), max(after))] if after else []
    return f" ({ends[0]} to {ends[1]})" if len(set(ends)) > 1 else ""
