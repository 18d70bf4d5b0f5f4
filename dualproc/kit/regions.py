"""Split an image into plain sky, plain ground and the drawing in front of them: the model of the geometry scorers.

Sky and ground each have one colour that may change smoothly over the image. The horizon is a straight line between
them. Pixels that neither colour explains belong to the drawing. The colours are not known in advance: both are fitted
robustly (iteratively reweighted least squares with the Geman-McClure function, in CIELAB) for every possible row of the
horizon, and the row that leaves the least unexplained is used.

Shape letters: H x W pixels, R regions, N pixels in a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_closing, binary_fill_holes, label
from skimage.color import rgb2lab
from torch import Tensor

Array: TypeAlias = npt.NDArray[np.floating[Any]]
Mask: TypeAlias = npt.NDArray[np.bool_]

ROWS = 64
"""Images are resized to this many rows: texture is averaged away, and lengths in pixels mean the same at every size."""
COARSE = 2
"""The first search for the horizon uses every second row and column."""
STEEPEST = 0.3
"""Largest slope of a horizon, rise over run."""
STEEP = 1.5
"""The penalty of a slope of 1, in unexplained rows: without evidence, the horizon is level."""
OFF = 6.0
"""A plain colour half explains a colour at this distance (CIELAB)."""
SCALES = (40.0, 20.0, 10.0, OFF, OFF)
"""The distance that counts as half explained, for each iteration of a fit: wide at first, to fit from any start."""
STIFF = (0.01, 0.002, 0.0003)
"""Ridge penalties on the change of a plain colour over the image, tried in turn; as shares of the number of pixels."""
LEAST_STEP = 3.0
"""The smallest difference in colour (CIELAB) across a horizon."""
LEAST_SEEN = 0.04
"""The smallest share of the columns in which a horizon must be visible."""
BAND = (1, 5)
"""The rows on either side of the horizon that show it; the nearest are left out, because an outline may be there."""
DRAWN = 9.0
"""A colour at this distance (CIELAB) from the plain one belongs to the drawing; up to twice as far in texture."""
TEXTURE = (1.0, 1.5, 2.0)
"""How much farther than OFF a colour may be from the plain ones and still show the horizon, tried in turn. Only images
of more than ROWS rows get more than the first: photographs and paintings have texture."""
LEAST_EXPLAINED = 0.3
"""Sky and ground must explain (within OFF) this share of the image: fewer pixels agree with any two areas by chance."""
LEAST_PLAIN, MOST_DRAWN = 0.7, 0.6
"""A drawing can be told from texture if sky and ground explain (within OFF) at least the first share of what is not
drawn, and at most the second share of the image is drawn."""
GAP = 0.06
"""Parts of a drawing with a vertical gap of up to this share of the height are one object."""
SPECK = 0.004
"""Drawings smaller than this share of the image are not objects."""


@dataclass(frozen=True)
class Layout:
    """An image split into sky, ground and drawing. Rows are fractions of the height, from the top."""

    row: float
    """The row where the horizon crosses the middle column; nan if there is no convincing horizon."""
    slope: float
    """The slope of the horizon, rise over run: positive if it falls to the right; 0 without a horizon."""
    drawn: Mask
    """[H, W]: True for pixels that are neither sky nor ground, and for all pixels that those enclose."""
    clear: bool = True
    """Whether the drawing can be told from the texture of sky and ground. Images of up to ROWS rows are not tested."""

    def objects(self) -> list[Mask]:
        """A mask [H, W] for each drawing that reaches below the horizon or, without one, into the lower two thirds.

        Parts with a small vertical gap between them are one object: a head and the shoulders below it.
        """
        height, width = self.drawn.shape
        row = 1 / 3 if np.isnan(self.row) else self.row
        floor = _line(row, self.slope, height, width) + 0.01 * height
        below = np.arange(height)[:, None] + 0.5 > floor
        standing = np.zeros_like(self.drawn)
        for part in connected_parts(self.drawn):
            if (part & below).any():
                standing |= part
        gap = round(GAP * height)
        joined = binary_closing(np.pad(standing, gap), np.ones((gap + 1, 1)))[gap:-gap, gap:-gap]
        objects = [part & standing for part in connected_parts(joined)]
        return [mask for mask in objects if mask.mean() >= SPECK]


def layouts(images: Tensor) -> Iterator[Layout | None]:
    """The layout of each image of [B, 3, H, W] in [0, 1], at ROWS rows; None if it has values that are not finite."""
    height, width = images.shape[-2:]
    size = (ROWS, max(16, round(width * ROWS / height)))
    for image in images.detach().float().cpu():
        if not torch.isfinite(image).all():
            yield None
            continue
        mode = "area" if height >= ROWS else "bilinear"
        small = F.interpolate(image[None].clamp(0, 1), size=size, mode=mode)[0]
        lab = rgb2lab(small.permute(1, 2, 0).numpy()).astype("float32")
        yield _known(lab.tobytes(), lab.shape[1], height > ROWS)


@lru_cache(maxsize=1024)
def _known(lab: bytes, width: int, textured: bool) -> Layout:
    """`layout` of an image of ROWS rows, once for all scorers that need it, also on hundreds of images (50 kB each)."""
    return layout(np.frombuffer(lab, "float32").reshape(-1, width, 3), textured=textured)


def layout(lab: Array, *, textured: bool = False) -> Layout:
    """The layout of one image [H, W, 3] in CIELAB, at its own size; the constants here are meant for ROWS rows.

    `textured` images may have more texture than the shipped generator draws: then the horizon is searched with all of
    TEXTURE, and `clear` is tested.
    """
    height, width = lab.shape[:2]
    for times, stiff in product(TEXTURE if textured else TEXTURE[:1], STIFF):
        row, slope = COARSE * _coarse_row(lab[::COARSE, ::COARSE], stiff) / height, 0.0
        for _ in range(2):
            below = _below(row, slope, height, width)
            sky, ground = _plain(lab, np.stack([1 - below, below]), stiff)
            row, slope = _best_line(_unexplained(lab, sky), _unexplained(lab, ground))
        found = _seen_row(lab, sky, ground, row, slope, times * OFF)
        if found is not None:
            break
    else:
        (plain,) = _plain(lab, np.ones((1, height, width)), STIFF[-1])
        off = np.linalg.norm(lab - plain, axis=-1)
        drawn = _drawn(off)
        return Layout(np.nan, 0.0, drawn, clear=not textured or _clear(off, drawn))
    rows = np.arange(height)[:, None] + 0.5 - _line(found, slope, height, width)
    _, unlike = _mixture(lab, sky, ground)
    off = np.linalg.norm(lab - np.where(rows[..., None] > 0, ground, sky), axis=-1)
    off = np.where(np.abs(rows) < 1.5, np.minimum(off, unlike), off)
    drawn = _drawn(off)
    return Layout(found, slope, drawn, clear=not textured or _clear(off, drawn))


# --- plain colours ----------------------------------------------------------------------------------------------


def _plain(lab: Array, regions: Array, stiff: float) -> Array:
    """[R, H, W, 3]: the plain colour of each region [R, H, W] (1 inside, 0 outside), extended over the whole image."""
    height, width = lab.shape[:2]
    basis = _basis(height, width)
    found = _fit(lab.reshape(-1, 3), basis, regions.reshape(len(regions), -1), stiff)
    plain: Array = (basis @ found).reshape(len(regions), height, width, 3)
    return plain


def _fit(colours: Array, basis: Array, inside: Array, stiff: float) -> Array:
    """[R, 4, 3]: coefficients of the plain colours of regions [R, N], from colours [N, 3] and a basis [N, 4]."""
    products = (basis[:, :, None] * np.concatenate([basis, colours], axis=1)[:, None]).reshape(len(basis), -1)
    weights = inside.astype(np.float32) * (0.2 + basis[:, 1] ** 2)  # objects are more often in the middle columns
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
    """[H * W, 4]: 1, column, row and squared row of each pixel, with columns and rows scaled to [-1, 1]."""
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    basis = np.stack([np.ones_like(rows), columns, rows, rows**2], axis=-1)
    return basis.reshape(height * width, -1).astype(np.float32)


def _unexplained(lab: Array, plain: Array) -> Array:
    """[..., H, W] in [0, 1): 0 where the colour equals the plain one; rises towards 1 as the distance grows."""
    squares = ((lab - plain) ** 2).sum(-1)
    share: Array = squares / (squares + OFF**2)
    return share


# --- the horizon ------------------------------------------------------------------------------------------------


def _coarse_row(lab: Array, stiff: float) -> int:
    """The row, in pixels of this reduced image, of the level horizon that leaves the least unexplained."""
    height, width = lab.shape[:2]
    candidates = range(2, height - 1)
    below = np.stack([_below(row / height, 0, height, width) for row in candidates])
    regions = np.concatenate([1 - below, below])
    unexplained = _unexplained(lab, _plain(lab, regions, stiff))
    return candidates[int((regions * unexplained).reshape(2, len(below), -1).sum((0, 2)).argmin())]


def _best_line(over_sky: Array, over_ground: Array) -> tuple[float, float]:
    """Row (a fraction of the height) and slope of the line that leaves the least unexplained.

    `over_sky` and `over_ground` [H, W] are what sky and ground leave unexplained; above the line, the sky counts.
    """
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


def _seen_row(lab: Array, sky: Array, ground: Array, row: float, slope: float, reach: float) -> float | None:
    """The row (a fraction of the height) from all columns that show the horizon; None if it is not convincing.

    A colour up to the distance `reach` (CIELAB) from a mix of sky and ground shows it.
    """
    height, width = lab.shape[:2]
    line = _line(row, slope, height, width)
    rows = np.arange(height)[:, None] + 0.5 - line
    ground_share, unlike = _mixture(lab, sky, ground)
    if _explained(np.linalg.norm(lab - np.where(rows[..., None] > 0, ground, sky), axis=-1)) < LEAST_EXPLAINED:
        return None
    explained = unlike < reach
    over, under = (rows < -BAND[0]) & (rows > -BAND[1]), (rows > BAND[0]) & (rows < BAND[1])

    def mostly(what: Mask, where: Mask) -> Mask:
        most: Mask = (what & where).sum(0) > 0.6 * where.sum(0)
        return most

    sky_over, sky_under = (mostly(explained & (ground_share < 0.35), where) for where in (over, under))
    ground_over, ground_under = (mostly(explained & (ground_share > 0.65), where) for where in (over, under))
    seen, denied = sky_over & ground_under, (sky_over & sky_under) | (ground_over & ground_under)
    if seen.mean() < LEAST_SEEN or seen.sum() <= denied.sum():
        return None
    step = np.linalg.norm((ground - sky)[np.clip(line.astype(int), 0, height - 1), np.arange(width)], axis=-1)
    if np.median(step[seen]) < LEAST_STEP:
        return None
    if not _abrupt(ground_share[:, seen], explained[:, seen], line[seen]):
        return None
    near = np.abs(rows) < BAND[0] + 1
    ground_part = np.where(explained, ground_share.clip(0, 1), 0.5)  # an outline along the horizon counts as half
    crossing = (near * (1 - ground_part)).sum(0) + (rows <= -BAND[0] - 1).sum(0)
    return float(row + np.median((crossing - line)[seen]) / height)


def _explained(off: Array) -> float:
    """The share of the pixels whose distance `off` (CIELAB) to the plain colours is below OFF."""
    return float((off < OFF).mean())


def _abrupt(ground_share: Array, explained: Mask, line: Array) -> bool:
    """Whether sky turns into ground at the line [N], in columns [H, N], and not in a wider gradient."""

    def at(offset: float, otherwise: float) -> float:
        rows, columns = (line + offset).astype(int).clip(0, len(ground_share) - 1), np.arange(len(line))
        plain = ground_share[rows, columns][explained[rows, columns]]
        return float(np.median(plain)) if len(plain) else otherwise

    above, below = at(-3, 0), at(3, 1)
    return below - above > max(0.5, 3 * abs(above - at(-6, above)), 3 * abs(at(6, below) - below))


def _mixture(lab: Array, sky: Array, ground: Array) -> tuple[Array, Array]:
    """[H, W] twice: the share of ground in the mix of sky and ground nearest to each pixel, and the distance to it."""
    step = ground - sky
    share = ((lab - sky) * step).sum(-1) / np.maximum((step**2).sum(-1), 1e-6)
    nearest = sky + share.clip(0, 1)[..., None] * step
    return share, np.linalg.norm(lab - nearest, axis=-1)


def _line(row: float, slope: float, height: int, width: int) -> Array:
    """[W]: the row of the horizon at every column, in pixels from the top edge."""
    line: Array = row * height + slope * (np.arange(width) + 0.5 - width / 2)
    return line


def _below(row: float, slope: float, height: int, width: int) -> Array:
    """[H, W]: 1 below the horizon, 0 above it."""
    return (np.arange(height)[:, None] + 0.5 > _line(row, slope, height, width)).astype(np.float32)


# --- the drawing ------------------------------------------------------------------------------------------------


def _drawn(off: Array) -> Mask:
    """[H, W]: True where `off`, the distance to the plain colours, is large, and for all pixels that those enclose."""
    mask: Mask = binary_fill_holes(off > np.clip(3 * np.median(off), DRAWN, 2 * DRAWN))
    return mask


def _clear(off: Array, drawn: Mask) -> bool:
    """Whether the distance `off` to the plain colours tells the drawing from texture."""
    return bool(drawn.mean() <= MOST_DRAWN and (off[~drawn] < OFF).mean() >= LEAST_PLAIN)


def connected_parts(mask: Mask) -> list[Mask]:
    """The connected parts of a mask [H, W], each as a mask [H, W]; pixels that touch at a corner are connected."""
    parts, count = label(mask, np.ones((3, 3)))
    return [parts == part for part in range(1, count + 1)]
