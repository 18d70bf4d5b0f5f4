"""The base-image anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from dualproc.protocols import Generator
from dualproc.types import Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseImage:
    """Keeps every picture near the one that the base draws from the same prompt and seed.

    The penalty is the squared distance of the pixels, of both pictures blurred if `blur` says so. It keeps layout and
    colours, and whatever the task changes has to be paid for; with a blur, details finer than it are free.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel):
        """What of the pictures is compared."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        blur: float = Field(
            0.0,
            ge=0,
            le=0.25,
            description="Blur both pictures first, with a standard deviation of this share of the height; 0: pixels.",
        )

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B]: mean squared distance to the base's pictures, pixels in [0, 1]."""
        # `grad` so that the base stops at the same sampling step; nothing is differentiated, for the LoRA is off.
        base = generator.sample(prompts, seeds, grad=True, base=True).images.detach()
        return self._blurred(sample.images - base).square().flatten(1).mean(1)

    def _blurred(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] after the blur, which is linear: that of a difference is the difference of two."""
        from torchvision.transforms.v2.functional import gaussian_blur

        sigma = self.params.blur * images.shape[-2]
        reach = min(math.ceil(3 * sigma), *(extent - 1 for extent in images.shape[-2:]))  # the padding mirrors
        return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2) if sigma and reach else images
