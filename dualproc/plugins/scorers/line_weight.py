"""The line-weight scorer: the thickness of a drawing's outlines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.kit.ink import ink_map
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATED_UP_TO = 128
"""In images with more rows than this, strokes are measured: the coefficients were fitted at 64 to 128 rows."""
ROWS = 512
"""Strokes are measured at this many rows, where the thinnest line of a drawing (.007) is 3.6 pixels wide."""
SOLID = 0.6
"""A pixel belongs to a stroke if it has this share of the ink of the darkest pixels (those at DARKEST)."""
DARKEST, LEAST_CONTRAST = 0.995, 0.4
"""The quantile of the ink that outlines must reach, and the least ink there: fainter marks are shading or texture."""
SHORTEST = 0.12
"""Marks whose bounding box has a shorter diagonal than this share of the height are specks, not strokes."""
LEAST_LENGTH, LEAST_STROKES, MOST_AREA, MOST_SPREAD = 0.5, 0.5, 0.3, 2.0
"""An image is a drawing if its strokes are together this long (in heights), are at least this share of the dark area
and at most this share of the image, and if the upper quartile of their widths is at most this multiple of the lower."""
LEAST_INK = 0.004
"""An image with less ink than this share of its area has no outlines, and no value."""
COEFFICIENTS = (-0.50089, 0.51549, 0.06176, 1.15464, -0.2791, -0.19247, 0.571)
"""Map the features to the width in pixels; fitted on rendered scenes by `tools.tiny_world.accuracy_lines --fit`."""


class LineWeight:
    """Thickness of the outlines, as a fraction of the image height; measured from the pixels, without a network.

    Ink is narrow and darker than its surroundings: a grey-scale closing minus the image (the black top-hat), as a share
    of the distance to black (`dualproc.kit.ink`). The width is computed from the area, the total variation and the
    ridge length of the ink: a long line of width w and length l has area w * l, total variation 2 * l, ridge length l.
    Lines narrower than a pixel cannot be distinguished from pale ones: both count as thin.

    In images of more than 128 rows, the value is the median width of the strokes, weighted by their area, so that thin
    details hardly count. Specks and shading are left out. An image has no value if its dark marks do not look like the
    strokes of one pen: too faint, too short, too much of the area, or of too different widths, as in a photograph.

    On new rendered scenes of 64 pixels, the mean error is 0.10 pixels (0.0016 of the height) and the correlation with
    the true width 0.978 (`python -m tools.tiny_world.accuracy_lines`). The accuracy from 64 to 1024 pixels, on texture
    and photographs, is in docs/scorers.md (`python benchmarks/scorers.py`).
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "of the height"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(BaseModel, extra="forbid", frozen=True):
        """The target, and which values are on target."""

        target: float | None = Field(
            None, gt=0, lt=1, description="Target line weight, as a fraction of the image height."
        )
        tolerance: float = Field(
            0.3, gt=0, description="Largest distance to the target that is on target, as a share of the target."
        )
        ink: float = Field(0.0, ge=0, lt=1, description="Luminance of the outlines, from 0 (black).")

    def __init__(self, params: Params) -> None:
        self.params = params
        target, share = params.target, params.tolerance
        self.accepted = None if target is None else (target * (1 - share), target * (1 + share))

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] line weights of `images` [B, 3, H, W] in [0, 1]; nan for images without outlines."""
        import torch

        if images.shape[-2] > CALIBRATED_UP_TO:
            return images.new_tensor(
                [stroke_width(ink_map(_resized(image[None]), self.params.ink)) for image in images]
            )
        ink = ink_map(images, self.params.ink)
        area, found = ink.flatten(1).mean(1), widths(ink) / images.shape[-2]
        return torch.where(area < LEAST_INK, torch.nan, found.clamp(min=0))


def stroke_width(ink: Tensor) -> float:
    """Width of the strokes in an ink map [1, 1, H, W] in [0, 1], as a share of the height; nan if it has no strokes.

    The width at a point of a stroke's middle line (skeleton) is twice the distance to the stroke's edge.
    """
    import numpy as np
    from scipy.ndimage import distance_transform_edt, find_objects, label
    from skimage.morphology import skeletonize

    shades = ink[0, 0].float().cpu().numpy()
    darkest = np.quantile(shades, DARKEST)
    if not darkest >= LEAST_CONTRAST:
        return math.nan
    dark = shades > SOLID * darkest
    height = len(dark)
    marks, _ = label(dark, np.ones((3, 3)))
    boxes = [np.hypot(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in find_objects(marks)]
    strokes = np.array([False, *(diagonal >= SHORTEST * height for diagonal in boxes)])[marks]
    middle = skeletonize(strokes)
    if middle.sum() < LEAST_LENGTH * height or not LEAST_STROKES * dark.sum() <= strokes.sum() <= MOST_AREA * dark.size:
        return math.nan
    found = np.sort(2 * distance_transform_edt(strokes)[middle])
    area = found.cumsum()
    lower, median, upper = found[np.searchsorted(area, area[-1] * np.array([0.25, 0.5, 0.75]))]
    return float(median / height) if upper <= MOST_SPREAD * lower else math.nan


def _resized(images: Tensor) -> Tensor:
    """Images [B, 3, H, W] at ROWS rows; the aspect ratio is kept."""
    import torch.nn.functional as F

    height, width = images.shape[-2:]
    size = (ROWS, max(1, round(width * ROWS / height)))
    return F.interpolate(images, size=size, mode="area" if height >= ROWS else "bilinear")


def widths(ink: Tensor) -> Tensor:
    """[B]: the width of the lines in pixels, from an ink map [B, 1, H, W] in [0, 1]."""
    import torch

    return features(ink) @ torch.tensor(COEFFICIENTS, dtype=ink.dtype, device=ink.device)


def features(ink: Tensor) -> Tensor:
    """[B, 7] of an ink map [B, 1, H, W]: 1, e, r, contrast, e * e, r * r and e * r, with two estimates of the width.

    These are e = 2 * area / total variation and r = area / ridge length, in pixels.
    """
    import torch
    import torch.nn.functional as F

    area = ink.flatten(1).sum(1) + 1e-6
    dx = F.pad(ink, (0, 1, 0, 0), mode="replicate").diff(dim=-1)
    dy = F.pad(ink, (0, 0, 0, 1), mode="replicate").diff(dim=-2)
    variation = (dx.square() + dy.square() + 1e-8).sqrt().flatten(1).sum(1)
    by_edges = 2 * area / variation
    smooth = F.avg_pool2d(F.avg_pool2d(ink, 3, stride=1, padding=1), 3, stride=1, padding=1)
    ridge = torch.zeros_like(ink, dtype=torch.bool)
    for axis in (-1, -2):
        ridge |= (smooth >= smooth.roll(1, axis)) & (smooth > smooth.roll(-1, axis))
    by_ridges = area / (ridge & (smooth > 0.1)).float().flatten(1).sum(1).clamp(min=1)
    contrast = ink.square().flatten(1).sum(1) / area
    ones, both = torch.ones_like(area), by_edges * by_ridges
    return torch.stack([ones, by_edges, by_ridges, contrast, by_edges**2, by_ridges**2, both], dim=1)
