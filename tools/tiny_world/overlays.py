"""The visual prompts that the judges of the small world learn to read, as RGBA canvases of the size of its images.

They are drawn by the package's own visual-prompt layers, so a judge sees in training what it sees in a fit. Those with
text come from a pool of thousands that is drawn beforehand, because 2 ms each is too slow for every training step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from dualproc.plugins.visual_prompts.line import Line
from dualproc.plugins.visual_prompts.points import Points
from dualproc.plugins.visual_prompts.text import Text

from .data import SIZE

Canvas = npt.NDArray[np.uint8]
"""[SIZE, SIZE, 4], RGBA"""
DRAWN_AT = 256
"""Layers are drawn at this size in pixels and then downscaled."""
POOL = 3_000
RED = (255, 0, 0, 255)
PIGMENTS = ("#f4d03f", "#3f6fd0", "#f6f1e4", "#d9d9d9", "#e8e2cf", "#7fb0e0", "#f0b040")
"""Without red, which is the colour of the instructions."""


@dataclass(frozen=True)
class PointsDrawn:
    """Two labelled points; `a_left`: whether Point A is the left one."""

    canvas: Canvas
    a_left: bool
    left: tuple[float, float]
    right: tuple[float, float]


@dataclass(frozen=True)
class Painting:
    """An abstract painting with an arrow and a text that point to one part: the bar at `x`, or the region `box`."""

    canvas: Canvas
    x: float | None
    box: tuple[float, float, float, float] | None


def bar(left: float, right: float, row: float, width: float) -> Canvas:
    """A red horizontal bar, antialiased by exact coverage; all arguments are fractions of the image size."""
    columns = _covered(left, right)
    rows = _covered(row - width / 2, row + width / 2)
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    canvas[..., :] = (255, 0, 0, 0)
    canvas[..., 3] = np.rint(255 * rows[:, None] * columns[None])
    return canvas


def swatches(colours: npt.NDArray[np.float64], *, top: float = 0.85) -> Canvas:
    """Swatches side by side from `top` (a share of the height) to the bottom; colours [N, 3] in [0, 1]."""
    canvas = np.zeros((SIZE, SIZE, 4), np.uint8)
    edges = np.rint(np.linspace(0, SIZE, len(colours) + 1)).astype(int)
    for colour, start, end in zip(colours, edges, edges[1:], strict=False):
        canvas[round(top * SIZE) :, start:end] = (*np.rint(255 * colour).astype(np.uint8), 255)
    return canvas


@lru_cache(maxsize=4)
def points(seed: int) -> list[PointsDrawn]:
    """A pool of pairs of red points with their letters, one point in each half of the image."""
    rng = np.random.default_rng(seed)
    return [_points(rng) for _ in range(POOL)]


@lru_cache(maxsize=4)
def paintings(seed: int) -> list[Painting]:
    """A pool of annotated paintings; half of them show a bar, half a region."""
    rng = np.random.default_rng(seed)
    return [_painting(rng, upright=bool(index % 2)) for index in range(POOL)]


def paint(
    rng: np.random.Generator, size: int, *, x: float | None = None, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Rectangles and bars in the style of De Stijl, with a bar at `x` or a coloured region `box`; opaque RGBA."""
    image = Image.new("RGBA", (size, size), "#fbfaf5")
    draw = ImageDraw.Draw(image)
    columns = np.sort([0.0, *rng.uniform(0.08, 0.92, rng.integers(1, 3)), 1.0])
    rows = np.sort([0.0, *rng.uniform(0.08, 0.92, rng.integers(1, 3)), 1.0])
    for left, right in pairwise(columns):
        for top, bottom in pairwise(rows):
            if rng.random() < 0.35:
                draw.rectangle([left * size, top * size, right * size, bottom * size], fill=str(rng.choice(PIGMENTS)))
    thick = size * rng.uniform(0.008, 0.016)
    for column in columns[1:-1]:
        draw.rectangle([column * size - thick, 0, column * size + thick, size], fill="black")
    for row in rows[1:-1]:
        draw.rectangle([0, row * size - thick, size, row * size + thick], fill="black")
    if box is not None:
        left, top, right, bottom = (size * side for side in box)
        draw.rectangle(
            [left, top, right, bottom], fill=str(rng.choice(PIGMENTS[:2])), outline="black", width=round(thick)
        )
    if x is not None:
        half = size * rng.uniform(0.022, 0.032)
        top = size * rng.uniform(0, 0.25)
        draw.rectangle([x * size - half, top, x * size + half, size * rng.uniform(0.85, 1.0)], fill="black")
    return image


def _points(rng: np.random.Generator) -> PointsDrawn:
    left = (rng.uniform(0.12, 0.36), rng.uniform(0.4, 0.9))
    right = (rng.uniform(0.6, 0.84), rng.uniform(0.4, 0.9))
    a_left = bool(rng.random() < 0.5)
    labels = ("A", "B") if a_left else ("B", "A")
    marks = [{"at": list(at), "label": label} for at, label in zip((left, right), labels, strict=True)]
    params = {"points": marks, "radius": rng.uniform(0.03, 0.05), "size": rng.uniform(0.14, 0.2)}
    canvas = Image.new("RGBA", (DRAWN_AT, DRAWN_AT))
    Points(Points.Params(**params)).draw(canvas)
    return PointsDrawn(_reduced(canvas), a_left, left, right)


def _painting(rng: np.random.Generator, *, upright: bool) -> Painting:
    x = box = None
    if upright:
        x = rng.uniform(0.12, 0.88)
        target = (x, rng.uniform(0.3, 0.8))
    else:
        width, height = rng.uniform(0.28, 0.6), rng.uniform(0.28, 0.6)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0.15, 1 - height) if height < 0.85 else 0.15
        box = (left, top, left + width, top + height)
        target = (left + width * rng.uniform(0.3, 0.7), top + height * rng.uniform(0.3, 0.7))
    canvas = paint(rng, DRAWN_AT, x=x, box=box)
    away = -1 if target[0] > 0.5 else 1
    tip = (target[0] + (away * 0.03 if upright else 0), target[1])
    tail = (
        float(np.clip(tip[0] + away * rng.uniform(0.2, 0.4), 0.02, 0.98)),
        float(np.clip(tip[1] - rng.uniform(-0.2, 0.3), 0.05, 0.95)),
    )
    Line(Line.Params(**{"from": tail, "to": tip, "width": rng.uniform(0.025, 0.045), "arrow": True})).draw(canvas)
    words = (
        "this line represents\na vertical object\nlike a tree"
        if upright
        else "this region is\na large expanse\nlike a field"
    )
    at = (float(np.clip(tail[0], 0.2, 0.8)), float(np.clip(tail[1] - 0.12, 0.1, 0.9)))
    Text(Text.Params(text=words, at=at, size=rng.uniform(0.035, 0.05), color="red")).draw(canvas)
    return Painting(_reduced(canvas), x, box)


def _reduced(canvas: Image.Image) -> Canvas:
    return np.asarray(canvas.convert("RGBa").resize((SIZE, SIZE), Image.Resampling.BOX).convert("RGBA"))


def _covered(start: float, end: float) -> npt.NDArray[np.float64]:
    edges = np.arange(SIZE)
    return (np.minimum(end * SIZE, edges + 1.0) - np.maximum(start * SIZE, edges)).clip(0, 1)
