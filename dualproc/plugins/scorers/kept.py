"""The kept scorer: how much of the base's image is left?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from dualproc.kit.structure import structure
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor


class Kept:
    """How alike in structure an image and the base's of the same prompt and seed are: 1 the same, 0 unrelated.

    The correlation of their blurred maps of edges (`dualproc.kit.structure`), 0 where it is negative. Colours and the
    weight of lines hardly change it. Images of one prompt and two seeds have about 0.4, for both draw a subject
    near the middle; a fit that keeps nothing but the subject ends there.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "correlation of edges"
    better: ClassVar[Literal["higher", "lower", "target"]] = "higher"

    class Params(BaseModel):
        """What counts as a hit."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        least: float | None = Field(None, gt=0, le=1, description="An image with at least this much is on target.")

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = None if params.least is None else (params.least, 1.0)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] similarities of images [B, 3, H, W] in [0, 1] to the base's; nan where there are no base's images."""
        if context.base_images is None:
            return images.new_full((len(images),), float("nan"))
        return (structure(images) * structure(context.base_images)).sum(1).clamp(0, 1)
