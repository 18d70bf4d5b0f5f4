"""The check for visual prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ._conform import Finding, call, conform, require_several

Size = tuple[int, int]
"""Width and height in pixels."""
SIZES = ((512, 512), (768, 512))
"""The sizes of the canvases; each drawing is compared with one of twice the size."""
GRID = 8
"""Drawings are compared in cells of this many pixels of the smaller one, because text is aligned to whole pixels."""
ALIKE = 0.2
"""The largest allowed difference between them, as a share of what is drawn."""


def check_visual_prompt(
    plugin: type[Any] | str, params: Mapping[str, Any] | None = None, /, *, sizes: Sequence[Size] = SIZES
) -> None:
    """Check that a layer follows `dualproc.protocols.VisualPrompt`; `dualproc.testing` describes what checks share.

    Args:
        sizes: width and height of the canvases; it must draw the same on a canvas of twice the size.

    Raises DualprocError if `sizes` is empty.
    """
    require_several("sizes", sizes, 1)

    def checks(layer: Any) -> Iterator[Iterator[str]]:
        yield _form(layer, sizes[0])
        for size in sizes:
            yield _leaves_others(layer, size)
            yield _scales(layer, size)

    conform("visual_prompts", plugin, params, checks)


def _drawn(layer: Any, size: Size, color: tuple[int, int, int, int] = (0, 0, 0, 0)) -> npt.NDArray[np.uint8]:
    """[H, W, 4]: a canvas of one colour after the layer has drawn on it."""
    canvas = Image.new("RGBA", size, color)
    given = call(f"draw on a canvas of {size[0]} x {size[1]}", layer.draw, canvas)
    if given is not None:
        raise Finding(f"draw returns {type(given).__name__}; expected None, and a drawing on the given canvas")
    if (canvas.mode, canvas.size) != ("RGBA", size):
        raise Finding(f"draw changes the canvas from RGBA {size} to {canvas.mode} {canvas.size}")
    return np.asarray(canvas)


def _form(layer: Any, size: Size) -> Iterator[str]:
    first, second = (_drawn(layer, size) for _ in range(2))
    if not first[..., 3].any():
        yield f"draw leaves a canvas of {size[0]} x {size[1]} fully transparent"
    if share := (first != second).any(-1).mean():
        yield f"draw is not reproducible: the second time, {share:.2%} of the pixels differ"


def _leaves_others(layer: Any, size: Size) -> Iterator[str]:
    """It keeps what is on the canvas: all layers of a spec draw on the same one."""
    color = (20, 140, 60, 200)
    untouched = _drawn(layer, size)[..., 3] == 0
    if share := ((_drawn(layer, size, color) != color).any(-1) & untouched).mean():
        yield f"draw erases other layers, on {share:.2%} of the canvas where it draws nothing itself"


def _scales(layer: Any, size: Size) -> Iterator[str]:
    """The drawing does not depend on the canvas size: the engine draws on a large canvas and downscales it."""
    small, large = (_coverage(layer, size, times) for times in (1, 2))
    off = np.abs(small - large).sum() / np.maximum(small, large).sum()
    if off > ALIKE:
        yield (
            f"draw gives a different drawing on a canvas of twice {size[0]} x {size[1]}: it covers {large.mean():.3%}"
            f" instead of {small.mean():.3%} of it, and {off:.0%} of the drawing is elsewhere; compute positions and"
            " widths from fractions of the canvas size"
        )


def _coverage(layer: Any, size: Size, times: int) -> npt.NDArray[np.float64]:
    """The mean opacity of each cell, in [0, 1], after drawing on an empty canvas that is `times` as large."""
    opacity = Image.fromarray(_drawn(layer, (times * size[0], times * size[1]))[..., 3])
    cells = opacity.convert("F").resize((size[0] // GRID, size[1] // GRID), Image.Resampling.BOX)
    return np.asarray(cells, dtype=np.float64) / 255
