"""The hue scorer: the hue of sky, ground or a box, in degrees."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.types import ScoreContext

from .region_color import Region, region_colors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

LEAST_CHROMA = 0.06
"""Colours whose largest and smallest of red, green and blue (in [0, 1]) differ by less are grey: they have no hue."""


class Hue:
    """Hue of the sky, the ground or a box, in degrees: that of CSS's `hsl()`, so 0 is red, 120 green and 240 blue.

    The colour of a region is its most frequent one, as for the scorer `region_color`. Hues go round in a circle: with a
    target, a value is within 180 of it, and may be below 0 or above 360. Grey has no value.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "degrees"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(BaseModel, extra="forbid", frozen=True):
        """The region, the target, and which values are on target."""

        region: Region
        target: float | None = Field(None, ge=0, le=360, description="Target hue in degrees.")
        tolerance: float = Field(15.0, gt=0, le=180, description="Largest distance to the target that is on target.")

    def __init__(self, params: Params) -> None:
        self.params = params
        target, tolerance = params.target, params.tolerance
        self.accepted = None if target is None else (target - tolerance, target + tolerance)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] hues of the region in `images` [B, 3, H, W] in [0, 1]; nan where it is grey or has no dominant colour."""
        colours = region_colors(images, self.params.region)
        return images.new_tensor([math.nan if color is None else self._hue(color) for color in colours])

    def _hue(self, color: npt.NDArray[np.float64]) -> float:
        import colorsys

        from skimage.color import lab2rgb

        red, green, blue = lab2rgb(color).clip(0, 1).tolist()
        if max(red, green, blue) - min(red, green, blue) < LEAST_CHROMA:
            return math.nan
        hue = 360 * colorsys.rgb_to_hls(red, green, blue)[0]
        target = self.params.target
        return hue if target is None else target + (hue - target + 180) % 360 - 180
