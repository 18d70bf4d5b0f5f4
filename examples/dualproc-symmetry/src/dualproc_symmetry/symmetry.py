"""The scorer `symmetry`: how similar an image is to its left-right mirror image."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from dualproc.types import ScoreContext
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from torch import Tensor

FLAT = 1e-5
"""An image with a lower variance is treated as one plain colour; rounding to 8 bits alone gives about 1e-6."""


class Symmetry:
    """Left-right mirror symmetry: 1 for an image that equals its mirror image, 0 for one that equals its negative.

    After subtracting the mean of each channel, an image is the sum of a symmetric part, which mirroring does not
    change, and an antisymmetric part, which mirroring negates. The value is the symmetric part's share of the variance.
    Two unrelated halves give 0.5 on average. Scenes on level ground give more, because sky and ground are the same on
    both sides.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "of the variance"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(BaseModel, extra="forbid", frozen=True):
        """Which values are on target."""

        target: float | None = Field(None, ge=0, le=1, description="Symmetry to aim at; 1 is perfect symmetry.")
        tolerance: float = Field(0.1, gt=0, le=1, description="Largest accepted distance from the target.")

    def __init__(self, params: Params) -> None:
        self.params = params

    @property
    def accepted(self) -> tuple[float, float] | None:
        """The range of values on target; None without a target."""
        target, tolerance = self.params.target, self.params.tolerance
        return None if target is None else (target - tolerance, target + tolerance)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """Symmetry [B] in [0, 1] of images [B, 3, H, W] in [0, 1]; nan for one plain colour. Differentiable."""
        centred = images - images.mean(dim=(2, 3), keepdim=True)
        mirrored = centred.flip(-1)
        symmetric = ((centred + mirrored) / 2).square().mean(dim=(1, 2, 3))
        antisymmetric = ((centred - mirrored) / 2).square().mean(dim=(1, 2, 3))
        total = symmetric + antisymmetric
        return (symmetric / total.clamp(min=FLAT)).masked_fill(total < FLAT, float("nan"))
