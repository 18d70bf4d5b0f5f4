"""The horizon scorer: the height of the border between sky and ground."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor


class Horizon:
    """Row of the horizon, as a fraction of the image height from the top; measured from the pixels, without a network.

    Sky and ground are fitted as two plain colours that may change smoothly, and the straight line between them that
    leaves the fewest pixels unexplained is the horizon (`dualproc.kit.regions`). If it slopes, its row at the middle
    column counts. An image has no value if hardly any of the horizon is visible, if the colours blend into each other,
    and often if a large drawing has the colour of the sky. Two known mistakes: a fill that covers more area than the
    visible ground is taken for the ground; the straight upper edge of a wide object, for a horizon in an image that has
    none. In images of more than 64 rows, sky and ground may have more texture. An image has no value if they explain
    less than 30 % of it.

    On new rendered scenes of 64 and 96 pixels, the mean error is 0.0011 to 0.0018 of the height; 99 % are within 0.02,
    and 0.7 % have no value (`python -m tools.tiny_world.accuracy_geometry`). Accuracy on texture and photographs, up to
    1024 pixels: docs/scorers.md.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "of the height"
    better: ClassVar[Literal["higher", "lower", "target"]] = "target"

    class Params(BaseModel, extra="forbid", frozen=True):
        """The target, and which values are on target."""

        target: float | None = Field(
            None, ge=0, le=1, description="Target row, as a fraction of the image height from the top."
        )
        tolerance: float = Field(
            0.05, gt=0, le=1, description="Largest distance to the target that is on target, a fraction of the height."
        )

    def __init__(self, params: Params) -> None:
        self.params = params
        target, tolerance = params.target, params.tolerance
        self.accepted = None if target is None else (target - tolerance, target + tolerance)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] rows of the horizon in `images` [B, 3, H, W] in [0, 1]; nan for images without a convincing one."""
        from dualproc.kit.regions import layouts

        return images.new_tensor([math.nan if found is None else found.row for found in layouts(images)])
