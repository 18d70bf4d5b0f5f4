"""The tone scorer: how light, colourful or contrasty the areas of an image are."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from dualproc.kit.colors import lab_and_ink
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from dualproc.kit.colors import Array


class Tone:
    """Lightness, chroma or contrast of the areas of an image in CIELAB, without a network.

    *Lightness* is the mean of L*, from 0 (black) to 100 (white). *Chroma* is the mean distance of the colours from
    grey, 0 for grey images. *Contrast* is the standard deviation of L* over the image. Images are first downscaled to
    64 rows, so fine texture hardly counts. Outlines (narrow and darker than their surroundings) are left out: thicker
    ones alone do not make an image darker.

    Without `low` and `high`, it has no target: use it in `evaluation.side_effects`, to see what else a LoRA changed.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "CIELAB"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(BaseModel, extra="forbid", frozen=True):
        """What is measured, and which values are on target."""

        of: Literal["lightness", "chroma", "contrast"] = Field(description="What is measured.")
        low: float | None = Field(None, ge=0, le=200, description="Lowest value on target; needs `high`.")
        high: float | None = Field(None, ge=0, le=200, description="Highest value on target; needs `low`.")

        @model_validator(mode="after")
        def _both(self) -> Self:
            if (self.low is None) != (self.high is None):
                raise ValueError("set both `low` and `high`, or none of them")
            if self.low is not None and self.high is not None and self.low > self.high:
                raise ValueError("`low` must not be above `high`")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params
        low, high = params.low, params.high
        self.accepted = None if low is None or high is None else (low, high)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] values of `images` [B, 3, H, W] in [0, 1]; nan for images with pixels that are not finite."""
        pairs = zip(*lab_and_ink(images), strict=True)
        return images.new_tensor([self._of(pixels[~outline]) for pixels, outline in pairs])

    def _of(self, pixels: Array) -> float:
        """The value of the `pixels` [N, 3] (CIELAB) of one image."""
        import numpy as np

        light, a, b = pixels.T
        if self.params.of == "lightness":
            return float(light.mean())
        return float(np.hypot(a, b).mean() if self.params.of == "chroma" else light.std())
