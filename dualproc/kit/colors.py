"""Perceived colour: CIELAB, CIEDE2000 distances, the dominant colours of an image, and the shades of a colour name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .ink import ink_map
from .structure import downscaled

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Array = npt.NDArray[np.float64]

ROWS = 64
"""Higher images are downscaled to this many rows, which keeps large areas."""
INK = 0.25
"""Pixels with more ink than this (`dualproc.kit.ink`) belong to outlines."""
CELL = 4
"""The side of the histogram cells in which colours are counted, in units of CIELAB."""
SHADE_RADIUS = 8
"""Colours up to this distance (Euclidean, in CIELAB) from the most frequent one are its shades."""
LEAST_SHARE = 0.02
"""A colour with less than this share of the pixels is not dominant: mostly it is a blend at an edge."""
MOST_COLORS = 16
"""The largest number of dominant colours of an image."""

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
"""The shades that a name stands for: first those of the shipped generator, then lighter and darker ones."""

COLOR_HINT = f"write one of {', '.join(SHADES)}, another CSS colour name, or a hex value such as #cc2244"
"""The hint for an unknown colour."""


def shades(name: str) -> tuple[str, ...]:
    """The colours that a name stands for: all its shades if it is in SHADES, else one CSS colour name or hex value.

    Case and spaces around the name are ignored, and `grey` is `gray`. Raises ValueError for an unknown colour.
    """
    from PIL import ImageColor

    name = name.strip().lower().replace("grey", "gray")
    if name in SHADES:
        return SHADES[name]
    ImageColor.getrgb(name)
    return (name,)


def require_color(value: str) -> str:
    """A pydantic validator for names that `shades` accepts; ValueError, with a hint, for any other text."""
    try:
        shades(value)
    except ValueError:
        raise ValueError(f"unknown colour '{value}'; {COLOR_HINT}") from None
    return value


def to_lab(colors: Sequence[str]) -> Array:
    """[K, 3]: K colours (CSS names or hex values) in CIELAB (D65). Raises ValueError for an unknown colour."""
    import numpy as np
    from PIL import ImageColor
    from skimage.color import rgb2lab

    rgb = np.array([ImageColor.getrgb(color)[:3] for color in colors], dtype=np.float64) / 255
    return np.asarray(rgb2lab(rgb))


def distances(found: Array, colors: Sequence[str], *, lightness: float = 1.0) -> Array:
    """[N]: CIEDE2000 distance from each of `found` [N, 3] (CIELAB) to the nearest of `colors` (names or hex values).

    Differences in lightness are divided by `lightness` (the kL of CIEDE2000).
    """
    nearest: Array = distances_to_each(found, colors, lightness=lightness).min(axis=1)
    return nearest


def distances_to_each(found: Array, colors: Sequence[str], *, lightness: float = 1.0) -> Array:
    """[N, K]: CIEDE2000 distance from each of `found` [N, 3] (CIELAB) to each of K `colors`. See `distances`."""
    return _apart(found, to_lab(colors), lightness)


def distances_between(found: Array, *, lightness: float = 1.0) -> Array:
    """[N, N]: CIEDE2000 distance from each of `found` [N, 3] (CIELAB) to each of them. See `distances`."""
    return _apart(found, found, lightness)


def _apart(first: Array, second: Array, lightness: float) -> Array:
    """[N, K]: CIEDE2000 distance from each of `first` [N, 3] to each of `second` [K, 3]."""
    from skimage.color import deltaE_ciede2000

    apart: Array = deltaE_ciede2000(first[:, None], second[None], kL=lightness)
    return apart


def lab_and_ink(images: Tensor) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The pixels of `images` [B, 3, H, W] in [0, 1], in CIELAB, and which of them belong to outlines.

    Returns [B, h, w, 3] and booleans [B, h, w], where h is at most ROWS and w keeps the aspect ratio.
    """
    import numpy as np
    from skimage.color import rgb2lab

    images = downscaled(images.detach().float().cpu().clamp(0, 1), ROWS)
    ink = ink_map(images).squeeze(1).numpy() > INK
    return np.asarray(rgb2lab(images.permute(0, 2, 3, 1).double().numpy())), ink


def dominant_colors(pixels: Array) -> tuple[Array, Array]:
    """The dominant colours [K, 3] of `pixels` [N, 3] (CIELAB), most frequent first, and their shares [K] of the pixels.

    The most frequent colour is removed with all pixels within SHADE_RADIUS of it, then the most frequent colour of the
    rest, and so on, as long as a colour has at least LEAST_SHARE of all pixels; K is at most MOST_COLORS. The rest
    (blends at edges, noise) counts for no colour, so the shares may add up to less than 1. Deterministic. K is 0 if any
    of the pixels is not finite.
    """
    import numpy as np

    colours: list[Array] = []
    shares: list[float] = []
    left = pixels
    least = max(1.0, LEAST_SHARE * len(pixels))
    while len(left) >= least and len(colours) < MOST_COLORS and np.isfinite(left).all():
        near = _most_frequent(left)
        if near.sum() < least:
            break
        colours.append(left[near].mean(axis=0))
        shares.append(near.sum() / len(pixels))
        left = left[~near]
    return np.array(colours).reshape(-1, 3), np.array(shares)


def _most_frequent(pixels: Array) -> npt.NDArray[np.bool_]:
    """[N]: which pixels have the most frequent colour: mean shift from the fullest cells to the mean of its shades."""
    import numpy as np

    centre = _peak(pixels)
    near: npt.NDArray[np.bool_] = np.linalg.norm(pixels - centre, axis=1) <= SHADE_RADIUS
    for _ in range(2):
        if near.any():
            near = np.linalg.norm(pixels - pixels[near].mean(axis=0), axis=1) <= SHADE_RADIUS
    return near


def _peak(pixels: Array) -> Array:
    """[3]: the mean of the pixels in the fullest cube of 3 x 3 x 3 cells."""
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
