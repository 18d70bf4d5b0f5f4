"""The kept scorer: how much of the base image's structure is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.kit.structure import structure
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor


class Kept:
    """Similarity in structure to the base image of the same prompt and seed, from 0 (unrelated) to 1 (equal).

    The correlation of the two blurred edge maps (`dualproc.kit.structure`), 0 if negative. Changes of colour and line
    weight hardly affect it. Images of one prompt and two seeds have about 0.4, because both show a subject near the
    middle; training that keeps only the subject ends there.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "correlation of edges"
    better: ClassVar[Literal["higher", "lower", "target"]] = "higher"

    class Params(BaseModel, extra="forbid", frozen=True):
        """Which values are on target."""

        least: float | None = Field(None, gt=0, le=1, description="Smallest similarity that is on target.")

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = None if params.least is None else (params.least, 1.0)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] similarities in [0, 1] of `images` [B, 3, H, W] in [0, 1] to the base images; nan without base images."""
        if context.base_images is None:
            return images.new_full((len(images),), float("nan"))
        return (structure(images) * structure(context.base_images)).sum(1).clamp(0, 1)
