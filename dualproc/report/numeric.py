"""Statistics for reports. nan stands for "not measured"."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from dualproc.wording import NOT_MEASURED, number


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


def ratio(value: float, base: float) -> float:
    """`value / base`; nan if the base is not positive."""
    return value / base if base > 0 else math.nan


def mean_and_spread(values: Sequence[float]) -> str:
    """`0.0412 ± 0.0031`; `not measured` if no value is finite."""
    if not measured(values):
        return NOT_MEASURED
    return f"{number(mean(values))} ± {number(spread(values), digits=2)}"
