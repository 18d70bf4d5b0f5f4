"""The charts of the report, as data: curves over the steps, and a plot of every image's score.

The page's template turns the marks of a chart into SVG; colours come from its style sheet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from dualproc.types import Score

from .numeric import mean, measured, number
from .summary import title as score_title
from .summary import within

WIDTH, HEIGHT = 340, 170
LEFT, RIGHT, TOP, BOTTOM = 44, 8, 8, 22
LANE, COLUMNS = 96, 36
"""Height of a row of dots, and how many dots fit side by side."""
POINTS = 240
"""A curve has at most about this many points; longer ones are averaged in groups."""

Point = tuple[float, float]


class Series(NamedTuple):
    """One curve: its name, its style (`judge`, `referee` or `plain`) and (step, value) points; nan breaks the line."""

    label: str
    style: str
    points: Sequence[Point]


class Mark(NamedTuple):
    """One element of a drawing."""

    tag: str
    """Of SVG: `line`, `path`, `circle`, `rect`, `text`, `title`, or `g` around children."""
    attributes: dict[str, object]
    text: str = ""
    children: tuple[Mark, ...] = ()


class Key(NamedTuple):
    """One entry of a legend."""

    style: str
    text: str


class Chart(NamedTuple):
    """A drawing of WIDTH x `height` pixels with its caption."""

    title: str
    keys: tuple[Key, ...]
    about: str
    """Small print in the caption; may be empty."""
    label: str
    """What screen readers say."""
    height: float
    marks: tuple[Mark, ...]


class _Frame(NamedTuple):
    """Maps values to places in the drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: float = HEIGHT

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
    marks = [*_y_axis(frame), *_x_axis(frame, about="step")]
    keys = [Key(one.style, f"{one.label} {number(_last(one.points))}".strip()) for one in drawn]
    if math.isfinite(base):
        marks.append(_line(LEFT, frame.y(base), WIDTH - RIGHT, frame.y(base), "base-line"))
        keys.append(Key("dashed", f"base {number(base)}"))
    marks += [_curve(one, frame) for one in drawn]
    return Chart(title, tuple(keys), about, f"{title} over the steps", HEIGHT, tuple(marks))


def dot_plot(base: Score, trained: Score) -> Chart | None:
    """One dot per image: above those of the base, below the trained ones, with target and accepted range.

    None if nothing was measured.
    """
    if not measured([*base.values, *trained.values]):
        return None
    edges = [*(trained.accepted or ()), *([] if trained.target is None else [trained.target])]
    values = measured([*base.values, *trained.values, *edges])
    low, high = _with_room(min(values), max(values))
    lanes = (("base", base), ("trained", trained))
    height = TOP + BOTTOM + LANE * len(lanes)
    frame = _Frame(low, high, 0, 1, height)
    marks = _x_axis(frame)
    columns = _Columns.of(frame, trained.accepted)
    if trained.accepted is not None:
        left, right = (frame.x(edge) for edge in trained.accepted)
        size = {"width": round(right - left, 1), "height": height - TOP - BOTTOM}
        marks.append(Mark("rect", {"x": left, "y": TOP, **size, "class": "band"}))
    if trained.target is not None:
        marks.append(_line(frame.x(trained.target), TOP, frame.x(trained.target), height - BOTTOM, "target-line"))
    aim = ", ".join(filter(None, (f"target {trained.target:g}" if trained.target is not None else "", within(trained))))
    for index, (label, score) in enumerate(lanes):
        floor = TOP + LANE * (index + 1)
        marks.append(_line(LEFT, floor, WIDTH - RIGHT, floor, "grid"))
        marks.append(_text(label, LEFT - 6, floor - 3, "end"))
        marks += _stacks([columns.at(value) for value in measured(score.values)], columns, floor, label)
    name = score_title(trained)
    keys = (Key("target", aim),) if aim else ()
    about = f"one dot per image; {trained.unit}"
    return Chart(name, keys, about, f"{name} of every image", height, tuple(marks))


class _Columns(NamedTuple):
    """Where dots are stacked. The accepted range holds whole columns, so no dot is on the wrong side of its edges."""

    frame: _Frame
    accepted: tuple[float, float] | None
    inside: int
    """Number of columns in the accepted range."""
    first: float
    width: float

    @classmethod
    def of(cls, frame: _Frame, accepted: tuple[float, float] | None) -> _Columns:
        width = (WIDTH - LEFT - RIGHT) / COLUMNS
        if accepted is None:
            return cls(frame, None, 0, float(LEFT), width)
        left, right = (frame.x(edge) for edge in accepted)
        inside = max(1, round((right - left) / width))
        return cls(frame, accepted, inside, left, (right - left) / inside or width)

    def at(self, value: float) -> int:
        """The column of a value; that of the accepted range's left edge is 0."""
        column = math.floor((self.frame.x(value) - self.first) / self.width)
        if self.accepted is None:
            return column
        low, high = self.accepted
        if low <= value <= high:
            return min(max(column, 0), self.inside - 1)
        return min(column, -1) if value < low else max(column, self.inside)


def _stacks(columns: Sequence[int], places: _Columns, floor: float, style: str) -> list[Mark]:
    """Dots on top of one another, one in each of `columns`."""
    stacks, width = Counter(columns), places.width
    step = min(width, (LANE - 8) / max(stacks.values(), default=1))  # high stacks are compressed
    return [
        Mark(
            "circle",
            {
                "cx": round(places.first + (column + 0.5) * width, 1),
                "cy": round(floor - step * (rank + 0.5), 1),
                "r": round(step * 0.45, 2),
                "class": f"dot {style}",
            },
        )
        for column, dots in stacks.items()
        for rank in range(dots)
    ]


def _curve(series: Series, frame: _Frame) -> Mark:
    raw = _path(series.points, frame)
    if len(series.points) <= 12:
        dots = [
            Mark(
                "circle",
                {"cx": frame.x(x), "cy": frame.y(y), "r": 2.6},
                children=(Mark("title", {}, f"step {x:g}: {number(y)}"),),
            )
            for x, y in series.points
            if math.isfinite(y)
        ]
        return Mark("g", {"class": series.style}, children=(Mark("path", {"d": raw, "class": "line"}), *dots))
    smooth = _path(_moving_mean(series.points), frame)
    lines = (Mark("path", {"d": raw, "class": "line raw"}), Mark("path", {"d": smooth, "class": "line"}))
    return Mark("g", {"class": series.style}, children=lines)


def _path(points: Sequence[Point], frame: _Frame) -> str:
    parts, pen_down = [], False
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{'L' if pen_down else 'M'}{frame.x(x)} {frame.y(y)}")
        pen_down = math.isfinite(y)
    return "".join(parts)


def _moving_mean(points: Sequence[Point]) -> list[Point]:
    reach = max(1, len(points) // 24)
    return [(x, mean([y for _, y in points[max(0, i - reach) : i + reach + 1]])) for i, (x, _) in enumerate(points)]


def _thin(points: Sequence[Point]) -> list[Point]:
    size = math.ceil(len(points) / POINTS)
    if size <= 1:
        return list(points)
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


def _y_axis(frame: _Frame) -> list[Mark]:
    return [
        mark
        for value in _ticks(frame.y_low, frame.y_high, 4)
        for mark in (
            _line(LEFT, frame.y(value), WIDTH - RIGHT, frame.y(value), "grid"),
            _text(f"{value:g}", LEFT - 6, frame.y(value) + 3.5, "end"),
        )
    ]


def _x_axis(frame: _Frame, *, about: str = "") -> list[Mark]:
    y = frame.height - 7
    room = WIDTH - 50 if about else WIDTH
    ticks = [value for value in _ticks(frame.x_low, frame.x_high, 5) if frame.x(value) < room]
    return [
        *(_text(f"{value:g}", frame.x(value), y, "middle") for value in ticks),
        _text(about, WIDTH - RIGHT, y, "end"),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Mark:
    return Mark("line", {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "class": style})


def _text(text: str, x: float, y: float, style: str) -> Mark:
    return Mark("text", {"x": x, "y": y, "class": style}, text)


def _last(points: Sequence[Point]) -> float:
    finite = [y for _, y in (_moving_mean(points) if len(points) > 12 else points) if math.isfinite(y)]
    return finite[-1]
