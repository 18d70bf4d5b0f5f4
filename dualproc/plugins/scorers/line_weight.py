"""The line-weight scorer: the thickness of a drawing's outlines."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.kit.ink import ink_map
from dualproc.kit.structure import downscaled
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor

CALIBRATED_UP_TO = 160
"""Images with more rows than this are downscaled to `REDUCED` rows: the coefficients were fitted at 64 to 128."""
REDUCED = 128
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

    On new rendered scenes of 64 pixels, the mean error is 0.10 pixels (0.0016 of the height) and the correlation with
    the true width 0.978 (`python -m tools.tiny_world.accuracy_lines`).
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
            images = downscaled(images, REDUCED)
        ink = ink_map(images, self.params.ink)
        area, found = ink.flatten(1).mean(1), widths(ink) / images.shape[-2]
        return torch.where(area < LEAST_INK, torch.nan, found.clamp(min=0))


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
