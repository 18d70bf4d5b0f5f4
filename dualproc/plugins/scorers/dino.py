"""The DINO scorer: how far an image is from its base image, in the features of a pretrained model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from dualproc.kit.pretrained import Pretrained, PretrainedParams
from dualproc.types import ScoreContext

if TYPE_CHECKING:
    from torch import Tensor


class Dino:
    """Distance to the base image of the same prompt and seed, in features of a pretrained DINOv2 model.

    1 - the cosine between the features of the class token: 0 for equal images, larger if the subject or the style
    changed. It notices what the scorer `kept` (edges) cannot: another animal with the same outline. Its processor crops
    the longer side to a square. Not yet measured with the pretrained weights, so there is no default for `most`.
    """

    api_version: ClassVar[int] = 1
    unit: ClassVar[str] = "cosine distance"
    better: ClassVar[Literal["higher", "lower", "target"]] = "lower"

    class Params(PretrainedParams):
        """Which values are on target."""

        model: str = Field(
            "facebook/dinov2-base",
            description="Hub id of a DINOv2 model, or a folder written by `save_pretrained`.",
        )
        most: float | None = Field(None, gt=0, le=2, description="Largest distance that is on target.")

    def __init__(self, params: Params) -> None:
        self.params = params
        self.accepted = None if params.most is None else (0.0, params.most)
        kind = "a DINOv2 model"
        self.net = Pretrained(
            params, what="the model of the scorer dino", kind=kind, model="AutoModel", processor="AutoImageProcessor"
        )
        default = f"the default is {type(params).model_fields['model'].default}"
        fits = self.net.model.config.model_type.startswith("dino")
        self.net.require(fits, scorer="dino", kind=kind, hint=default)

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] distances in [0, 2] of `images` [B, 3, H, W] in [0, 1] to the base images; nan without base images."""
        if context.base_images is None:
            return images.new_full((len(images),), math.nan)
        seen, base = self._features(images), self._features(context.base_images)
        return (1 - (seen * base).sum(1)).clamp(0, 2).to(images)

    def _features(self, images: Tensor) -> Tensor:
        """[B, C] of length 1."""
        from torch.nn.functional import normalize

        def values(rows: slice) -> Tensor:
            return normalize(self.net.model(**self.net.inputs(images[rows])).pooler_output.float(), dim=-1)

        return self.net.measure(len(images), values)
