"""Statistics for reports. nan stands for "not measured"."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from dualproc.wording import NOT_MEASURED, number

CLEARLY = 2.0
"""A slope is clear if it is more than this many standard errors from 0."""


def measured(values: Sequence[float]) -> list[float]:
    """The finite values."""
    return [value for value in values if math.isfinite(value)]


def unmeasured(values: Sequence[float]) -> str:
    """`3 of 66`: how many values are not finite; empty if all are."""
    count = len(values) - len(measured(values))
    return f"{count} of {len(values)}" if count else ""


def mean(values: Sequence[float]) -> float:
    """Mean of the finite values; nan if there are none."""
    finite = measured(values)
    return statistics.fmean(finite) if finite else math.nan


def spread(values: Sequence[float]) -> float:
    """Population standard deviation of the finite values; nan if there are none."""
    finite = measured(values)
    return statistics.pstdev(finite) if finite else math.nan


def standardised_change(before: Sequence[float], after: Sequence[float]) -> float:
    """The change of the mean, in standard deviations of `before` (Glass's delta); nan if that is not defined.

    Numbers that are not finite are left out.
    """
    old, new = measured(before), measured(after)
    if len(old) < 2 or not new:
        return math.nan
    unit = spread(old)
    return (statistics.fmean(new) - statistics.fmean(old)) / unit if unit > 1e-9 else math.nan


def change_beyond(
    before: Sequence[float], after: Sequence[float], task_before: Sequence[float], task_after: Sequence[float]
) -> float:
    """The part of the `standardised_change` that the task itself does not explain; nan if that is not defined.

    `task_before` and `task_after` are the task's own values of the same images. Where `before` clearly follows
    `task_before` (a straight line by least squares whose slope is more than `CLEARLY` standard errors from 0), the
    change that the line gives for the mean of `task_after` goes with the task, and so does any smaller change of the
    same sign. Nothing goes with it if that mean is outside the range of `task_before`: no base image shows it then.
    """
    change, reached = standardised_change(before, after), mean(task_after)
    pairs = [(x, y) for x, y in zip(task_before, before, strict=True) if math.isfinite(x) and math.isfinite(y)]
    x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not math.isfinite(change) or len(pairs) < 3 or not min(x) <= reached <= max(x) or not spread(x) or not spread(y):
        return change
    correlation = statistics.correlation(x, y)
    if correlation**2 * (len(pairs) - 2) <= CLEARLY**2 * (1 - correlation**2):
        return change
    implied = correlation * (reached - mean(x)) / spread(x) * spread(y) / spread(before)
    return change - min(max(change, min(implied, 0.0)), max(implied, 0.0))


def ratio(value: float, base: float) -> float:
    """`value / base`; nan if the base is not positive."""
    return value / base if base > 0 else math.nan


def mean_and_spread(values: Sequence[float]) -> str:
    """`0.0412 ± 0.0031`; `not measured` if no value is finite."""
    if not measured(values):
        return NOT_MEASURED
    return f"{number(mean(values))} ± {number(spread(values), digits=2)}"
