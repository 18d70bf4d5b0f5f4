"""The table of side effects of a bench: every run against every scorer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dualproc.wording import MISSING, plural

from . import markdown
from .bench import BenchRow, grouped
from .numeric import mean

FILE = "side_effects.md"
"""The file that `dp bench` and `dp sweep` write beside the runs."""
SMALL = 0.5
"""A side effect is small if it is at most this many standard deviations of the base images."""
LEGEND = (
    "Change of the mean from base to trained images, in standard deviations of the base images, on the same held-out "
    "prompts and seeds. *task*: the task's own scorers. With several seeds, the mean of their changes. In brackets, "
    "where it differs: the change beyond the task. Where a scorer's values clearly follow those of the task's first "
    "scorer in base images (least squares, more than 2 standard errors), the change that this line gives for the "
    "trained images goes with the task; what exceeds it, or has the other sign, is beyond it."
)


class Effect(NamedTuple):
    """A change in standard deviations of the base images; nan where nothing was measured."""

    change: float
    beyond: float
    """The part that the task itself does not explain (`numeric.change_beyond`)."""


Changes = Mapping[str, Effect]
"""By the scorer's label."""


def table(
    rows: Sequence[BenchRow], changes: Mapping[str, Changes], own: Mapping[str, frozenset[str]]
) -> list[tuple[str, ...]]:
    """The headings, then one row of texts per spec, variant and setting.

    `changes` and `own`, the labels of a task's own scorers, are by the row's folder.
    """
    labels = list(dict.fromkeys(label for each in changes.values() for label in each))
    lines = [("task", *labels)]
    for group in _measured(rows, changes):
        cells = []
        for label in labels:
            change, beyond = (round(one, 1) if math.isfinite(one) else None for one in _effect(group, changes, label))
            shown = MISSING if change is None else f"{change:+.1f}"
            if beyond is not None and beyond != change:
                shown += f" ({beyond:+.1f})"
            cells.append("task" if label in own[group[0].folder] else shown)
        lines.append((_name(group), *cells))
    return lines


def conclusion(rows: Sequence[BenchRow], changes: Mapping[str, Changes], own: Mapping[str, frozenset[str]]) -> str:
    """How many tasks have only small side effects, and the largest of the others; then the same beyond the task."""
    groups = _measured(rows, changes)

    def largest(group: Sequence[BenchRow], kind: int) -> tuple[float, str]:
        labels = {label for row in group for label in changes.get(row.folder, {})} - own[group[0].folder]
        sizes = [(abs(_effect(group, changes, label)[kind]), label) for label in sorted(labels)]
        return max(((size, label) for size, label in sizes if math.isfinite(size)), default=(0.0, ""))

    sentences = []
    for kind, where in enumerate(("", " beyond the task")):
        found = [(*largest(group, kind), _name(group)) for group in groups]
        small = sum(size <= SMALL for size, *_ in found)
        count = f"{small} of {plural(len(groups), 'task')}"
        sentences.append(f"Side effects{where} of at most {SMALL:g} standard deviations: {count}.")
        if others := [f"{name} {label} {size:.2f}" for size, label, name in found if size > SMALL]:
            sentences.append(f"Largest side effect{where} of the others: {'; '.join(others)}.")
    return " ".join(sentences)


def render(rows: Sequence[BenchRow], changes: Mapping[str, Changes], own: Mapping[str, frozenset[str]]) -> str:
    """The table as Markdown, with its conclusion and legend."""
    headings, *lines = table(rows, changes, own)
    below = [markdown.text(conclusion(rows, changes, own)), LEGEND]
    return "\n\n".join([markdown.table(headings, lines), *below]) + "\n"


def _measured(rows: Sequence[BenchRow], changes: Mapping[str, Changes]) -> list[list[BenchRow]]:
    """The rows of each spec, variant and setting of which a run was measured."""
    return [group for group in grouped(rows) if any(row.folder in changes for row in group)]


def _name(group: Sequence[BenchRow]) -> str:
    first = group[0]
    return " ".join(filter(None, (f"{first.name}/{first.variant}" if first.variant else first.name, first.setting)))


def _effect(group: Sequence[BenchRow], changes: Mapping[str, Changes], label: str) -> Effect:
    """The mean over the seeds."""
    found = [changes[row.folder][label] for row in group if label in changes.get(row.folder, {})]
    return Effect(mean([one.change for one in found]), mean([one.beyond for one in found]))
