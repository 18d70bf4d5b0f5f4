"""The charts of the report, as SVG elements: curves over the steps, and a plot of every image's score.

The elements are made of numbers and fixed words only. Text from a spec or a plugin goes into the caption, which the
page's template escapes; colours come from its style sheet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dualproc.types import Calibration, Score
from dualproc.wording import NOT_MEASURED, number

from .numeric import mean, measured, unmeasured
from .summary import title as score_title
from .summary import within

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22
LANE, COLUMNS = 96, 36
"""Height of a row of dots, and how many dots fit side by side."""
POINTS = 240
"""A curve has at most about this many points; longer ones are averaged in groups."""
FEW = 12
"""Curves of at most this many points show each of them; longer ones are smoothed."""

Point = tuple[float, float]


class Series(NamedTuple):
    """One curve: its name, its style (`judge`, `referee` or `plain`) and (step, value) points; nan breaks the line."""

    label: str
    style: str
    points: Sequence[Point]


class Chart(NamedTuple):
    """A drawing of WIDTH x `height` pixels with its caption."""

    title: str
    legend: list[tuple[str, str]]
    """Style and text of each entry."""
    about: str
    """Small print in the caption; may be empty."""
    label: str
    """What screen readers say."""
    height: int
    marks: list[str]
    """SVG elements."""


class _Frame(NamedTuple):
    """Maps values to places in the drawing."""

    x_low: float
    x_high: float
    y_low: float = 0
    y_high: float = 1
    height: int = HEIGHT

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return round(self.height - BOTTOM - share * (self.height - TOP - BOTTOM), 1)


def line_chart(
    title: str, series: Sequence[Series], *, about: str = "", base: float = math.nan, from_zero: bool = False
) -> Chart | None:
    """One or more curves; `base`, where known, is a dashed line. None if there is nothing to draw.

    The axis of a chart titled P(...) goes from 0 to 1; any other fits the values, and with `from_zero` includes 0.
    """
    drawn = [one._replace(points=_thin(one.points)) for one in series]
    drawn = [one for one in drawn if measured([y for _, y in one.points])]
    if not drawn:
        return None
    steps = [x for one in drawn for x, _ in one.points]
    values = measured([y for one in drawn for _, y in one.points] + [base])
    low, high = (0.0, 1.0) if title.startswith("P(") else _with_room(0.0 if from_zero else min(values), max(values))
    frame = _Frame(min(steps), max(steps), low, high)
    marks = [_text("step", WIDTH - RIGHT, HEIGHT - 7, "end"), *_x_axis(frame, WIDTH - 50)]
    for value in _ticks(low, high, 4):
        marks += [_across(frame.y(value), "grid"), _text(f"{value:g}", LEFT - 6, frame.y(value) + 3.5, "end")]
    last = [measured([y for _, y in _smooth(one.points)])[-1] for one in drawn]
    legend = [(one.style, f"{one.label} {number(value)}".strip()) for one, value in zip(drawn, last, strict=True)]
    if math.isfinite(base):
        marks.append(_across(frame.y(base), "base-line"))
        legend.append(("dashed", f"base {number(base)}"))
    marks += [_curve(one, frame) for one in drawn]
    return Chart(title, legend, about, f"{title} over the steps", HEIGHT, marks)


def calibration_chart(calibration: Calibration, asked: Sequence[float], values: Sequence[float]) -> Chart | None:
    """A slider's value against the measured one: a dot per image, and the curve of the means; dashed, equality.

    None if nothing was measured.
    """
    pairs = [(x, y) for x, y in zip(asked, values, strict=True) if math.isfinite(y)]
    if not pairs:
        return None
    low, high = min(asked), max(asked)
    frame = _Frame(low, high, *_with_room(min(low, *(y for _, y in pairs)), max(high, *(y for _, y in pairs))))
    marks = _x_axis(frame, WIDTH + 1)
    for value in _ticks(frame.y_low, frame.y_high, 4):
        marks += [_across(frame.y(value), "grid"), _text(f"{value:g}", LEFT - 6, frame.y(value) + 3.5, "end")]
    marks.append(_line(frame.x(low), frame.y(low), frame.x(high), frame.y(high), "base-line"))
    marks += [_circle(frame.x(x), frame.y(y), 1.8, "dot base") for x, y in pairs]
    means = [(point.asked, point.measured) for point in calibration.points]
    marks.append(_curve(Series("", "plain", means), frame, "asked"))
    legend = [("plain", "mean"), ("dashed", "measured = asked")]
    about = f"from left to right: value asked for; upwards: value measured, {calibration.unit}; a dot per image"
    title = f"{calibration.slider}, measured by {calibration.scorer.replace('_', ' ')}"
    return Chart(title, legend, about, "measured values over the values asked for", HEIGHT, marks)


def dot_plot(base: Score, trained: Score) -> Chart | None:
    """One dot per image: above those of the base, below the trained ones, with target and accepted range.

    None if nothing was measured.
    """
    if not measured([*base.values, *trained.values]):
        return None
    target = [] if trained.target is None else [trained.target]
    values = measured([*base.values, *trained.values, *(trained.accepted or ()), *target])
    lanes = (("base", base), ("trained", trained))
    frame = _Frame(*_with_room(min(values), max(values)), height=TOP + BOTTOM + LANE * len(lanes))
    floor = frame.height - BOTTOM
    marks = _x_axis(frame, WIDTH)
    if trained.accepted is not None:
        left, right = (frame.x(edge) for edge in trained.accepted)
        size = f'width="{right - left:.1f}" height="{floor - TOP}"'
        marks.append(f'<rect x="{left}" y="{TOP}" {size} class="band"></rect>')
    marks += [_line(frame.x(value), TOP, frame.x(value), floor, "target-line") for value in target]
    for index, (label, score) in enumerate(lanes, start=1):
        lane_floor = TOP + LANE * index
        marks += [_across(lane_floor, "grid"), _text(label, LEFT - 6, lane_floor - 3, "end")]
        marks += _stacks(measured(score.values), trained.accepted, frame, lane_floor, label)
    name, aim = score_title(trained), [*(f"target {value:g}" for value in target), within(trained)]
    legend = [("target", ", ".join(filter(None, aim)))] if any(aim) else []
    blind = "".join(
        f"; {count} {which} {NOT_MEASURED}" for which, score in lanes if (count := unmeasured(score.values))
    )
    return Chart(
        name, legend, f"one dot per image; {trained.unit}{blind}", f"{name} of every image", frame.height, marks
    )


def _stacks(
    values: Sequence[float], accepted: tuple[float, float] | None, frame: _Frame, floor: float, style: str
) -> list[str]:
    """Dots in columns. The accepted range holds whole columns, so no dot is on the wrong side of its edges."""
    whole = frame.x_high - frame.x_low
    low, high = accepted or (frame.x_low, frame.x_high)
    inside = max(1, round((high - low) / whole * COLUMNS))
    width = (high - low) / inside or whole / COLUMNS

    def column(value: float) -> int:
        """The column of a value; column 0 begins at the left edge of the accepted range."""
        place = math.floor((value - low) / width)
        if low <= value <= high:
            return min(place, inside - 1)
        return min(place, -1) if value < low else max(place, inside)

    stacks = Counter(map(column, values))
    pixels = width / whole * (WIDTH - LEFT - RIGHT)
    step = min(pixels, (LANE - 8) / max(stacks.values(), default=1))  # high stacks are compressed
    return [
        _circle(frame.x(low + (place + 0.5) * width), floor - step * (rank + 0.5), step * 0.45, f"dot {style}")
        for place, dots in stacks.items()
        for rank in range(dots)
    ]


def _curve(series: Series, frame: _Frame, axis: str = "step") -> str:
    raw, smooth = (_path(points, frame) for points in (series.points, _smooth(series.points)))
    if len(series.points) > FEW:
        return f'<g class="{series.style}"><path d="{raw}" class="line raw"/><path d="{smooth}" class="line"/></g>'
    dots = [
        _circle(frame.x(x), frame.y(y), 2.6, "point", f"{axis} {x:g}: {number(y)}")
        for x, y in series.points
        if math.isfinite(y)
    ]
    return f'<g class="{series.style}"><path d="{raw}" class="line"/>{"".join(dots)}</g>'


def _path(points: Sequence[Point], frame: _Frame) -> str:
    parts, pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{'L' if pen_down else 'M'}{frame.x(x)} {frame.y(y)}")
        pen_down = math.isfinite(y)
    return "".join(parts)


def _smooth(points: Sequence[Point]) -> Sequence[Point]:
    """Moving means; a short curve as it is."""
    if len(points) <= FEW:
        return points
    reach = max(1, len(points) // 24)
    return [(x, mean([y for _, y in points[max(0, i - reach) : i + reach + 1]])) for i, (x, _) in enumerate(points)]


def _thin(points: Sequence[Point]) -> list[Point]:
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[-1][0], mean([y for _, y in group])) for group in groups]


def _with_room(low: float, high: float) -> tuple[float, float]:
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < room else low - room), high + room


def _ticks(low: float, high: float, count: int) -> list[float]:
    if high <= low:
        return [low]
    raw = (high - low) / count
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * scale for factor in (1, 2, 5, 10) if factor * scale > 0.8 * raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _x_axis(frame: _Frame, room: float) -> list[str]:
    ticks = [(value, frame.x(value)) for value in _ticks(frame.x_low, frame.x_high, 5)]
    return [_text(f"{value:g}", x, frame.height - 7, "middle") for value, x in ticks if x < room]


def _across(y: float, style: str) -> str:
    return _line(LEFT, y, WIDTH - RIGHT, y, style)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{style}"></line>'


def _text(text: str, x: float, y: float, style: str) -> str:
    return f'<text x="{x}" y="{y}" class="{style}">{text}</text>'


def _circle(x: float, y: float, radius: float, style: str, title: str = "") -> str:
    about = f"<title>{title}</title>" if title else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}" class="{style}">{about}</circle>'
