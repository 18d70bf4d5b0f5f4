"""Colours as they are seen: CIELAB, CIEDE2000, the colours that fill an image's areas, and shades by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .ink import ink_of
from .structure import downscaled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Array = npt.NDArray[np.float64]

ROWS = 64
"""Higher images are reduced to this many rows: what fills large areas is still there."""
INK = 0.25
"""Pixels that are narrow and this much (of the way to black) darker than their surroundings belong to the drawing."""
CELL = 4
"""Side of the cells in which colours are counted, in units of CIELAB."""
REACH = 8
"""Colours this near (Euclidean, in CIELAB) to the most frequent one are shades of it."""
LEAST = 0.02
"""A colour of less than this share of the area fills no area: mostly it is the blend at an edge."""
MOST = 16
"""At most this many colours are told apart."""

SHADES: dict[str, tuple[str, ...]] = {
    "snow": ("#ffffff", "#f2f5fa", "#e6ebf2", "#d9e0e8"),
    "sand": ("#ecd29a", "#f3e3bd", "#dcbc82", "#c9a36b", "#e6c9a0"),
    "grass": ("#9ccf74", "#b9d98a", "#7fb85a", "#5f9a41", "#47782f", "#8ea84f"),
    "water": ("#86c5e8", "#a9d9f0", "#5aa7d6", "#3a7fb5", "#2a5f8a", "#6cc0c8"),
    "blue": ("#8fc1f0", "#b5d8f7", "#87ceeb", "#5b9fe0", "#2f6fcf", "#1f3fb0"),
    "pink": ("#f5b5cf", "#fad3e1", "#f28fb5", "#e8609a", "#f7b7b2"),
    "yellow": ("#f5e08c", "#fbf0b8", "#f5d547", "#ffe600", "#e8c030"),
    "green": ("#a9dba0", "#c8ebbf", "#6fbf66", "#3d9140", "#2a6b2f", "#8fce5a"),
    "purple": ("#c3a9e6", "#dccdf2", "#9b72cf", "#7040b0", "#4f2a80"),
    "orange": ("#f4b98a", "#f9d3b0", "#f59a4a", "#f07a1a", "#d9601a"),
    "white": ("#f8f8f8", "#ffffff", "#f0f0f0"),
    "gray": ("#bdbdbd", "#cccccc", "#9a9a9a", "#747474", "#a9b0b8"),
}
"""What goes by a name, in some shades of it: the small world's own first, then lighter and darker ones."""


ADVICE = f"write one of {', '.join(SHADES)}, another name of CSS, or a hex value such as #cc2244"
"""What to do about a colour that is none."""


def shades(name: str) -> tuple[str, ...]:
    """The shades of a name, or the one colour that a hex value or any other name of CSS is.

    ValueError if it is no colour.
    """
    from PIL import ImageColor

    name = name.strip().lower().replace("grey", "gray")
    if name in SHADES:
        return SHADES[name]
    ImageColor.getrgb(name)
    return (name,)


def shade_names(value: str) -> str:
    """A validator: a name of SHADES or a colour of CSS."""
    try:
        shades(value)
    except ValueError:
        raise ValueError(f"'{value}' is no colour; {ADVICE}") from None
    return value


def to_lab(colors: Sequence[str]) -> Array:
    """[K, 3]: colours (names of CSS or hex values) in CIELAB, D65."""
    import numpy as np
    from PIL import ImageColor
    from skimage.color import rgb2lab

    rgb = np.array([ImageColor.getrgb(color)[:3] for color in colors], dtype=np.float64) / 255
    return np.asarray(rgb2lab(rgb))


def distances(found: Array, colors: Sequence[str]) -> Array:
    """[N]: CIEDE2000 distance of each of `found` [N, 3] (CIELAB) to the nearest of `colors`."""
    from skimage.color import deltaE_ciede2000

    apart: Array = deltaE_ciede2000(found[:, None], to_lab(colors)[None])
    nearest: Array = apart.min(axis=1)
    return nearest


def lab_and_ink(images: Tensor) -> tuple[Array, npt.NDArray[np.bool_]]:
    """[B, H, W, 3] pixels in CIELAB, reduced to ROWS, and [B, H, W] which of them belong to outlines."""
    import numpy as np
    from skimage.color import rgb2lab

    images = downscaled(images.detach().float().cpu().clamp(0, 1), ROWS)
    ink = ink_of(images).squeeze(1).numpy() > INK
    return np.asarray(rgb2lab(images.permute(0, 2, 3, 1).double().numpy())), ink


def dominant(pixels: Array) -> tuple[Array, Array]:
    """The colours [K, 3] that fill the areas of `pixels` [N, 3] (CIELAB), most frequent first, and their shares [K].

    The most frequent colour, with all pixels within REACH of it, is taken away, then the most frequent of the rest, and
    so on, while a colour has at least LEAST of all pixels. The rest (blends at edges, noise) has no colour, so that
    the shares add up to less than 1. Deterministic. None at all for pixels that are no numbers.
    """
    import numpy as np

    colours: list[Array] = []
    shares: list[float] = []
    left = pixels
    least = max(1.0, LEAST * len(pixels))
    while len(left) >= least and len(colours) < MOST and np.isfinite(left).all():
        near = _most_frequent(left)
        if near.sum() < least:
            break
        colours.append(left[near].mean(axis=0))
        shares.append(near.sum() / len(pixels))
        left = left[~near]
    return np.array(colours).reshape(-1, 3), np.array(shares)


def _most_frequent(pixels: Array) -> npt.NDArray[np.bool_]:
    """[N]: which pixels have the most frequent colour; it moves from the fullest cells to the middle of its shades."""
    import numpy as np

    centre = _peak(pixels)
    near: npt.NDArray[np.bool_] = np.linalg.norm(pixels - centre, axis=1) <= REACH
    for _ in range(2):
        if near.any():
            near = np.linalg.norm(pixels - pixels[near].mean(axis=0), axis=1) <= REACH
    return near


def _peak(pixels: Array) -> Array:
    """Mean of the pixels in the fullest cube of 3 x 3 x 3 cells."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    cells = np.floor(pixels / CELL).astype(np.int64)
    cells -= cells.min(axis=0)
    counts = torch.zeros(*(cells.max(axis=0) + 1).tolist())
    counts.index_put_(tuple(torch.from_numpy(cells).unbind(1)), torch.ones(len(cells)), accumulate=True)
    around = F.avg_pool3d(F.pad(counts, [1] * 6)[None, None], 3, stride=1)[0, 0]
    fullest = np.unravel_index(int(around.argmax()), tuple(around.shape))
    mean: Array = pixels[(np.abs(cells - np.array(fullest)) <= 1).all(axis=1)].mean(axis=0)
    return mean
