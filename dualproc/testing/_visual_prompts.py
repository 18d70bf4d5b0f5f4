"""The check of visual prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ._conform import Finding, call, conform

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

    Pixels = npt.NDArray[np.uint8]

SIZES = ((512, 512), (768, 512))
"""Width and height; each is compared with twice the size."""
GRID = 8
"""Drawings of two sizes are compared in cells of so many pixels of the smaller: letters are fitted to whole pixels."""
ALIKE = 0.2
"""Share of what is drawn that may then still differ."""


def check_visual_prompt(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> None:
    """Does a layer keep to `dualproc.protocols.VisualPrompt`?

    Args:
        plugin: the class, or the name under which it is installed.
        params: its parameters, as a spec gives them.
        sizes: width and height of the canvases; it has to draw the same on one of twice the size.

    Raises:
        ConformanceError: it does not; with a sentence for each thing that is wrong.
        PluginError: no plugin of that name can be loaded.
    """

    def checks(layer: Any) -> Iterator[Iterator[str]]:
        yield _form(layer, sizes[0])
        for size in sizes:
            yield _leaves_others(layer, size)
            yield _scales(layer, size)

    conform("visual_prompts", plugin, params, checks)


def _blank(size: tuple[int, int]) -> Image:
    from PIL import Image

    return Image.new("RGBA", size)


def _drawn(layer: Any, canvas: Image) -> Pixels:
    """[H, W, 4]: the canvas after the layer was drawn on it."""
    import numpy as np

    mode, size = canvas.mode, canvas.size
    given = call(f"draw on a canvas of {size[0]} x {size[1]}", layer.draw, canvas)
    if given is not None:
        raise Finding(f"draw returns {type(given).__name__}, which nobody takes; it has to draw on the canvas in place")
    if (canvas.mode, canvas.size) != (mode, size):
        raise Finding(f"draw changes the canvas from {mode} {size} to {canvas.mode} {canvas.size}")
    return np.asarray(canvas)


def _form(layer: Any, size: tuple[int, int]) -> Iterator[str]:
    first, second = (_drawn(layer, _blank(size)) for _ in range(2))
    if not first[..., 3].any():
        yield f"draw leaves the canvas of {size[0]} x {size[1]} fully transparent: nobody would see it"
    share = (first != second).any(-1).mean()
    if share:
        yield f"draw gives another drawing the second time: {share:.2%} of the pixels differ"


def _leaves_others(layer: Any, size: tuple[int, int]) -> Iterator[str]:
    """All layers of a spec are drawn on one canvas."""
    import numpy as np
    from PIL import Image

    untouched = _drawn(layer, _blank(size))[..., 3] == 0
    canvas = Image.new("RGBA", size, (20, 140, 60, 200))
    before = np.asarray(canvas).copy()
    share = ((_drawn(layer, canvas) != before).any(-1) & untouched).mean()
    if share:
        yield f"draw erases what other layers drew, on {share:.2%} of the canvas where it draws nothing itself"


def _scales(layer: Any, size: tuple[int, int]) -> Iterator[str]:
    """The engine draws on canvases of any size and reduces them: places and widths have to be fractions."""
    import numpy as np

    coarse = (size[0] // GRID, size[1] // GRID)
    small, large = (_coverage(layer, (times * size[0], times * size[1]), coarse) for times in (1, 2))
    off = np.abs(small - large).sum() / np.maximum(small, large).sum()
    if off > ALIKE:
        yield (
            f"draw gives another drawing on a canvas of twice {size[0]} x {size[1]}: it covers {large.mean():.3%} of it"
            f" instead of {small.mean():.3%}, and {off:.0%} lies elsewhere; use fractions of the canvas's size for"
            " places and widths"
        )


def _coverage(layer: Any, size: tuple[int, int], coarse: tuple[int, int]) -> npt.NDArray[np.float64]:
    """How much of each cell of a coarse grid is drawn on, on a canvas of a size."""
    import numpy as np
    from PIL import Image

    canvas = _blank(size)
    _drawn(layer, canvas)
    return np.asarray(canvas.getchannel("A").convert("F").resize(coarse, Image.Resampling.BOX), dtype=np.float64) / 255
