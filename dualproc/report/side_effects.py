"""The table of side effects of a bench: every run against every scorer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

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
    "prompts and seeds. *task*: the task's own scorers. With several seeds, the mean of their changes."
)

Changes = Mapping[str, float]
"""By the scorer's label; nan where nothing was measured."""


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
            change = _change(group, changes, label)
            shown = f"{change:+.1f}" if math.isfinite(change) else MISSING
            cells.append("task" if label in own[group[0].folder] else shown)
        lines.append((_name(group), *cells))
    return lines


def conclusion(rows: Sequence[BenchRow], changes: Mapping[str, Changes], own: Mapping[str, frozenset[str]]) -> str:
    """How many tasks have only small side effects, and the largest of the others."""
    groups, largest = _measured(rows, changes), []
    for group in groups:
        labels = {label for row in group for label in changes.get(row.folder, {})} - own[group[0].folder]
        found = [
            (abs(change), label) for label in sorted(labels) if math.isfinite(change := _change(group, changes, label))
        ]
        largest.append((max(found, default=(0.0, "")), _name(group)))
    small = sum(size <= SMALL for (size, _), _ in largest)
    lines = f"Side effects of at most {SMALL:g} standard deviations: {small} of {plural(len(groups), 'task')}."
    others = [f"{name} {label} {size:.1f}" for (size, label), name in largest if size > SMALL]
    return f"{lines} Largest side effect of the others: {'; '.join(others)}." if others else lines


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


def _change(group: Sequence[BenchRow], changes: Mapping[str, Changes], label: str) -> float:
    return mean([changes[row.folder].get(label, math.nan) for row in group if row.folder in changes])
