"""The scorer `symmetry`: is the left half of an image the mirror image of the right one?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dualproc.types import ScoreContext
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from torch import Tensor

FLAT = 1e-5
"""Variance below which an image is one plain colour; rounding to 8 bits alone makes about 1e-6."""


class Symmetry:
    """Left-right mirror symmetry: 1 for an image that is its own mirror image, 0 for one that is its negative.

    An image is the sum of a part that mirroring leaves as it is and one whose sign it turns; this is the share of the
    first in the variance, each channel's mean left out. Two halves that have nothing to do with each other give 0.5 on
    average; scenes on a level ground give more, because sky and ground are the same at both sides.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "of the variance"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(BaseModel, extra="forbid", frozen=True):
        """What counts as a hit."""

        target: float | None = Field(None, ge=0, le=1, description="Wanted symmetry; 1 is a perfect mirror image.")
        tolerance: float = Field(0.1, gt=0, le=1, description="An image is on target within this.")

    def __init__(self, params: Params) -> None:
        self.params = params

    @property
    def accepted(self) -> tuple[float, float] | None:
        """Values within the tolerance of the target; None without a target."""
        target, tolerance = self.params.target, self.params.tolerance
        return None if target is None else (target - tolerance, target + tolerance)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] in [0, 1], of images [B, 3, H, W] in [0, 1]; nan for an image of one plain colour. Differentiable."""
        centred = images - images.mean(dim=(2, 3), keepdim=True)
        mirrored = centred.flip(-1)
        same = ((centred + mirrored) / 2).square().mean(dim=(1, 2, 3))
        turned = ((centred - mirrored) / 2).square().mean(dim=(1, 2, 3))
        total = same + turned
        return (same / total.clamp(min=FLAT)).masked_fill(total < FLAT, float("nan"))
