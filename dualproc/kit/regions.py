"""What the geometry scorers share: an image taken apart into plain sky, plain ground and what is drawn before them.

Sky and ground are each one colour that may change evenly over the image, the horizon is a straight line between them,
and what neither colour explains is drawn. No colour is known beforehand: both are fitted robustly (iteratively
reweighted least squares with the Geman-McClure function, in CIELAB) for every row that the horizon may have, and the
row is taken that leaves least unexplained.

Letters: H x W pixels, R regions, N pixels in a row. Rows of a line are counted in pixels, from the top edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Array: TypeAlias = npt.NDArray[np.floating[Any]]
    Mask: TypeAlias = npt.NDArray[np.bool_]

ROWS = 64
"""Images are looked at with this many rows: texture is averaged away, and pixels mean the same for every size."""
COARSE = 2
"""The horizon is first looked for in every second row and column."""
STEEPEST = 0.3
"""Largest slope of a horizon, rise over run."""
STEEP = 1.5
"""What slope 1 costs, in unexplained rows: without evidence a horizon is level."""
OFF = 6.0
"""A colour this far from a plain one (CIELAB) is half explained by it."""
SCALES = (40.0, 20.0, 10.0, OFF, OFF)
"""Fits begin with a wide view, so that it does not matter where they begin."""
STIFF = (0.01, 0.002, 0.0003)
"""How much holds back the change of a plain colour over the image, as a share of the pixels."""
LEAST_STEP = 3.0
"""Least difference of colour (CIELAB) across a horizon."""
LEAST_SEEN = 0.04
"""Least share of the columns in which a horizon is seen."""
BAND = (1, 5)
"""Rows to either side of the horizon in which it is seen: not the nearest, where an outline may be."""
DRAWN = 9.0
"""A colour this far from the plain one is drawn; in texture it takes more, up to twice that."""
GAP = 0.06
"""Parts of a drawing no farther above one another than this share of the height belong together."""
SPECK = 0.004
"""Drawings smaller than this share of the image do not count as objects."""


@dataclass(frozen=True)
class Layout:
    """An image taken apart. Fractions are of the height, from the top."""

    row: float
    """Where the horizon crosses the middle of the image; nan without a convincing horizon."""
    slope: float
    """Its rise over run: positive if it falls to the right; 0 without a horizon."""
    drawn: Mask
    """[H, W]: neither plain sky nor plain ground, or enclosed by what is neither."""

    def objects(self) -> list[Mask]:
        """[H, W] each: drawings that reach below the horizon, or without one into the lower two thirds.

        Parts of them that hover closely above one another belong together: a head above its shoulders.
        """
        import numpy as np
        from scipy.ndimage import binary_closing

        height, width = self.drawn.shape
        floor = _line(self.row if self.row == self.row else 1 / 3, self.slope, height, width) + 0.01 * height
        below = np.arange(height)[:, None] + 0.5 > floor
        standing = np.zeros_like(self.drawn)
        for part in parts_of(self.drawn):
            if (part & below).any():
                standing |= part
        gap = round(GAP * height)
        joined = binary_closing(np.pad(standing, gap), np.ones((gap + 1, 1)))[gap:-gap, gap:-gap]
        objects = [part & standing for part in parts_of(joined)]
        return [mask for mask in objects if mask.mean() >= SPECK]


def layouts(images: Tensor) -> Iterator[Layout | None]:
    """Images [B, 3, H, W] in [0, 1] taken apart, at ROWS rows; None for one with values that are not finite."""
    import torch
    import torch.nn.functional as F
    from skimage.color import rgb2lab

    height, width = images.shape[-2:]
    size = (ROWS, max(16, round(width * ROWS / height)))
    for image in images.detach().float().cpu():
        if not torch.isfinite(image).all():
            yield None
            continue
        mode = "area" if height >= ROWS else "bilinear"
        small = F.interpolate(image[None].clamp(0, 1), size=size, mode=mode)[0]
        yield layout(rgb2lab(small.permute(1, 2, 0).numpy()).astype("float32"))


def layout(lab: Array) -> Layout:
    """An image [H, W, 3] in CIELAB taken apart."""
    import numpy as np

    height, width = lab.shape[:2]
    for stiff in STIFF:
        row, slope = COARSE * _coarse_row(lab[::COARSE, ::COARSE], stiff) / height, 0.0
        for _ in range(2):
            below = _below(row, slope, height, width)
            sky, ground = _plain(lab, np.stack([1 - below, below]), stiff)
            row, slope = _best_line(_unexplained(lab, sky), _unexplained(lab, ground))
        found = _seen_row(lab, sky, ground, row, slope)
        if found is not None:
            break
    else:
        (plain,) = _plain(lab, np.ones((1, height, width)), STIFF[-1])
        return Layout(np.nan, 0.0, _drawn(np.linalg.norm(lab - plain, axis=-1)))
    rows = np.arange(height)[:, None] + 0.5 - _line(found, slope, height, width)
    _, aside = _mixture(lab, sky, ground)
    off = np.linalg.norm(lab - np.where(rows[..., None] > 0, ground, sky), axis=-1)
    return Layout(found, slope, _drawn(np.where(np.abs(rows) < 1.5, np.minimum(off, aside), off)))


# --- plain colours ----------------------------------------------------------------------------------------------


def _plain(lab: Array, regions: Array, stiff: float) -> Array:
    """[R, H, W, 3]: the plain colour of each region [R, H, W] (1 inside, 0 outside), carried on over the image."""
    height, width = lab.shape[:2]
    basis = _basis(height, width)
    found = _fit(lab.reshape(-1, 3), basis, regions.reshape(len(regions), -1), stiff)
    plain: Array = (basis @ found).reshape(len(regions), height, width, 3)
    return plain


def _fit(colours: Array, basis: Array, inside: Array, stiff: float) -> Array:
    """[R, 4, 3]: coefficients of the plain colours of regions [R, N], from colours [N, 3] and a basis [N, 4]."""
    import numpy as np

    products = (basis[:, :, None] * np.concatenate([basis, colours], axis=1)[:, None]).reshape(len(basis), -1)
    weights = inside.astype(np.float32) * (0.2 + basis[:, 1] ** 2)  # objects are rather in the middle
    ridge = np.diag([1e-6, stiff, stiff, stiff]) * inside.sum(1)[:, None, None]
    found: Array | None = None
    for scale in (None, *SCALES):
        if found is not None and scale is not None:
            squares = ((colours - basis @ found) ** 2).sum(-1)
            weights = inside * (scale**2 / (scale**2 + squares)) ** 2
        sums = (weights @ products).reshape(len(inside), 4, 7)
        found = np.linalg.solve(sums[..., :4] + ridge, sums[..., 4:]).astype(np.float32)
    assert found is not None
    return found


def _basis(height: int, width: int) -> Array:
    """[H * W, 3]: 1, and the column and row of each pixel, -1 to 1."""
    import numpy as np

    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (
        np.stack([np.ones_like(rows), columns, rows, rows**2], axis=-1).reshape(height * width, -1).astype(np.float32)
    )


def _unexplained(lab: Array, plain: Array) -> Array:
    """[..., H, W]: 0 where a colour is the plain one, 1 where it is another."""
    squares = ((lab - plain) ** 2).sum(-1)
    share: Array = squares / (squares + OFF**2)
    return share


# --- the horizon ------------------------------------------------------------------------------------------------


def _coarse_row(lab: Array, stiff: float) -> int:
    """The row of a level horizon that leaves least unexplained."""
    import numpy as np

    height, width = lab.shape[:2]
    candidates = range(2, height - 1)
    below = np.stack([_below(row / height, 0, height, width) for row in candidates])
    regions = np.concatenate([1 - below, below])
    unexplained = _unexplained(lab, _plain(lab, regions, stiff))
    return candidates[int((regions * unexplained).reshape(2, len(below), -1).sum((0, 2)).argmin())]


def _best_line(over_sky: Array, over_ground: Array) -> tuple[float, float]:
    """Row and slope of the line that leaves least unexplained, by sky above it [H, W] and by ground below it [H, W]."""
    import numpy as np

    height, width = over_sky.shape
    none = np.zeros((1, width))
    above = np.concatenate([none, over_sky.cumsum(0)])
    below = np.concatenate([over_ground[::-1].cumsum(0)[::-1], none])
    slopes = np.linspace(-STEEPEST, STEEPEST, 61)
    rows = np.arange(2, height - 1)
    lines = np.stack([_line(0, slope, height, width) for slope in slopes])
    crossings = (rows[:, None, None] + lines).clip(0, height - 1e-3)
    floor = crossings.astype(int)
    share, columns = crossings - floor, np.arange(width)
    total = above + below
    cost = ((1 - share) * total[floor, columns] + share * total[floor + 1, columns]).mean(-1) + STEEP * np.abs(slopes)
    row, slope = np.unravel_index(cost.argmin(), cost.shape)
    return float(rows[row]) / height, float(slopes[slope])


def _seen_row(lab: Array, sky: Array, ground: Array, row: float, slope: float) -> float | None:
    """The row to a part of a pixel, from the columns in which the horizon is seen; None if it is not convincing."""
    import numpy as np

    height, width = lab.shape[:2]
    line = _line(row, slope, height, width)
    rows = np.arange(height)[:, None] + 0.5 - line
    between, aside = _mixture(lab, sky, ground)
    explained = aside < OFF
    over, under = (rows < -BAND[0]) & (rows > -BAND[1]), (rows > BAND[0]) & (rows < BAND[1])

    def mostly(what: Mask, where: Mask) -> Mask:
        most: Mask = (what & where).sum(0) > 0.6 * where.sum(0)
        return most

    sky_like, ground_like = explained & (between < 0.35), explained & (between > 0.65)
    seen = mostly(sky_like, over) & mostly(ground_like, under)
    denied = (mostly(sky_like, over) & mostly(sky_like, under)) | (
        mostly(ground_like, over) & mostly(ground_like, under)
    )
    if seen.mean() < LEAST_SEEN or seen.sum() <= denied.sum():
        return None
    step = np.linalg.norm((ground - sky)[np.clip(line.astype(int), 0, height - 1), np.arange(width)], axis=-1)
    if np.median(step[seen]) < LEAST_STEP:
        return None
    if not _abrupt(between[:, seen], explained[:, seen], line[seen]):
        return None
    near = np.abs(rows) < BAND[0] + 1
    belongs = np.where(explained, between.clip(0, 1), 0.5)  # an outline along the horizon is half sky and half ground
    crossing = (near * (1 - belongs)).sum(0) + (rows <= -BAND[0] - 1).sum(0)
    return float(row + np.median((crossing - line)[seen]) / height)


def _abrupt(between: Array, explained: Mask, line: Array) -> bool:
    """Whether sky turns into ground at the line, in columns [H, N]: not as evenly as a gradient that goes on beyond."""
    import numpy as np

    def at(offset: float, otherwise: float) -> float:
        rows, columns = (line + offset).astype(int).clip(0, len(between) - 1), np.arange(len(line))
        plain = between[rows, columns][explained[rows, columns]]
        return float(np.median(plain)) if len(plain) else otherwise

    above, below = at(-3, 0), at(3, 1)
    return below - above > max(0.5, 3 * abs(above - at(-6, above)), 3 * abs(at(6, below) - below))


def _mixture(lab: Array, sky: Array, ground: Array) -> tuple[Array, Array]:
    """[H, W] twice: share of ground in the mixture of sky and ground that is most like a pixel, and how far off."""
    import numpy as np

    step = ground - sky
    share = ((lab - sky) * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-6)
    nearest = sky + share.clip(0, 1)[..., None] * step
    return share, np.linalg.norm(lab - nearest, axis=-1)


def _line(row: float, slope: float, height: int, width: int) -> Array:
    """[W]: row of the horizon at every column, in pixels."""
    import numpy as np

    line: Array = row * height + slope * (np.arange(width) + 0.5 - width / 2)
    return line


def _below(row: float, slope: float, height: int, width: int) -> Array:
    """[H, W]: 1 below the horizon, 0 above it."""
    import numpy as np

    return (np.arange(height)[:, None] + 0.5 > _line(row, slope, height, width)).astype(np.float32)


# --- the drawing ------------------------------------------------------------------------------------------------


def _drawn(off: Array) -> Mask:
    """[H, W]: what is far off the plain colours, and what that encloses."""
    import numpy as np
    from scipy.ndimage import binary_fill_holes

    mask: Mask = binary_fill_holes(off > np.clip(3 * np.median(off), DRAWN, 2 * DRAWN))
    return mask


def parts_of(mask: Mask) -> list[Mask]:
    """The connected parts of a mask [H, W], corners included."""
    import numpy as np
    from scipy.ndimage import label

    parts, count = label(mask, np.ones((3, 3)))
    return [parts == part for part in range(1, count + 1)]
