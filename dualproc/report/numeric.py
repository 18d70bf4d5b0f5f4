"""Statistics for reports, and how their numbers are written. nan stands for "not measured"."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MISSING = "–"  # noqa: RUF001 (an en dash, as in printed tables)


def measured(values: Sequence[float]) -> list[float]:
    """The finite values."""
    return [value for value in values if math.isfinite(value)]


def mean(values: Sequence[float]) -> float:
    """Mean of the finite values; nan if there are none."""
    finite = measured(values)
    return statistics.fmean(finite) if finite else math.nan


def spread(values: Sequence[float]) -> float:
    """Population standard deviation of the finite values; nan if there are none."""
    finite = measured(values)
    return statistics.pstdev(finite) if finite else math.nan


def share_above(values: Sequence[float], limit: float) -> float:
    """Share of all values above `limit`; nan counts as below. nan if there are no values."""
    return sum(value > limit for value in values) / len(values) if values else math.nan


def ratio(value: float, base: float) -> float:
    """`value / base`; nan if the base is not positive."""
    return value / base if base > 0 else math.nan


def number(value: float, *, digits: int = 3) -> str:
    """`value` with this many significant digits: 0.0243, 1.20, 43.8, 12,040."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(float(f"{value:.{digits}g}")) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def percent(share: float) -> str:
    """A share in [0, 1] as `91%`."""
    return f"{100 * share:.0f}%" if math.isfinite(share) else MISSING


def times(value: float) -> str:
    """A ratio as `1.1x`."""
    return f"{value:.{1 if value < 10 else 0}f}x" if math.isfinite(value) else MISSING


def mean_and_spread(values: Sequence[float]) -> str:
    """`0.0412 ± 0.0031`."""
    if not measured(values):
        return MISSING
    return f"{number(mean(values))} ± {number(spread(values), digits=2)}"
