"""The check for visual prompts."""

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
"""Width and height of the canvases; each drawing is compared with one of twice the size."""
GRID = 8
"""Drawings are compared in cells of this many pixels of the smaller one, because text is aligned to whole pixels."""
ALIKE = 0.2
"""The largest allowed difference between them, as a share of what is drawn."""


def check_visual_prompt(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    sizes: Sequence[tuple[int, int]] = SIZES,
) -> None:
    """Check that a layer follows `dualproc.protocols.VisualPrompt`.

    Args:
        plugin: the class, or its name if it is installed.
        params: its parameters, as in a spec.
        sizes: width and height of the canvases; it must draw the same on a canvas of twice the size.

    Raises:
        ConformanceError: it does not; has one sentence for each problem.
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
    """[H, W, 4]: the canvas after the layer has drawn on it."""
    import numpy as np

    mode, size = canvas.mode, canvas.size
    given = call(f"draw on a canvas of {size[0]} x {size[1]}", layer.draw, canvas)
    if given is not None:
        raise Finding(f"draw returns {type(given).__name__}; expected None, and a drawing on the given canvas")
    if (canvas.mode, canvas.size) != (mode, size):
        raise Finding(f"draw changes the canvas from {mode} {size} to {canvas.mode} {canvas.size}")
    return np.asarray(canvas)


def _form(layer: Any, size: tuple[int, int]) -> Iterator[str]:
    first, second = (_drawn(layer, _blank(size)) for _ in range(2))
    if not first[..., 3].any():
        yield f"draw leaves a canvas of {size[0]} x {size[1]} fully transparent"
    share = (first != second).any(-1).mean()
    if share:
        yield f"draw is not reproducible: the second time, {share:.2%} of the pixels differ"


def _leaves_others(layer: Any, size: tuple[int, int]) -> Iterator[str]:
    """It keeps what is on the canvas: all layers of a spec draw on the same one."""
    import numpy as np
    from PIL import Image

    untouched = _drawn(layer, _blank(size))[..., 3] == 0
    canvas = Image.new("RGBA", size, (20, 140, 60, 200))
    before = np.asarray(canvas).copy()
    share = ((_drawn(layer, canvas) != before).any(-1) & untouched).mean()
    if share:
        yield f"draw erases other layers, on {share:.2%} of the canvas where it draws nothing itself"


def _scales(layer: Any, size: tuple[int, int]) -> Iterator[str]:
    """The drawing does not depend on the canvas size: the engine draws on a large canvas and downscales it."""
    import numpy as np

    coarse = (size[0] // GRID, size[1] // GRID)
    small, large = (_coverage(layer, (times * size[0], times * size[1]), coarse) for times in (1, 2))
    off = np.abs(small - large).sum() / np.maximum(small, large).sum()
    if off > ALIKE:
        yield (
            f"draw gives a different drawing on a canvas of twice {size[0]} x {size[1]}: it covers {large.mean():.3%}"
            f" instead of {small.mean():.3%} of it, and {off:.0%} of the drawing is elsewhere; compute positions and"
            " widths from fractions of the canvas size"
        )


def _coverage(layer: Any, size: tuple[int, int], coarse: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The mean opacity of each cell of a coarse grid, in [0, 1], after drawing on an empty canvas of a size."""
    import numpy as np
    from PIL import Image

    canvas = _blank(size)
    _drawn(layer, canvas)
    return np.asarray(canvas.getchannel("A").convert("F").resize(coarse, Image.Resampling.BOX), dtype=np.float64) / 255
