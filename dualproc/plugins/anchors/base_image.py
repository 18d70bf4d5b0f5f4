"""The base-image anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from dualproc.kit.structure import blurred
from dualproc.protocols import Generator
from dualproc.types import Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseImage:
    """Keeps every image near the one that the base draws from the same prompt and seed.

    The penalty is the squared distance of the pixels, of both images blurred if `blur` says so. It keeps layout and
    colours, and whatever the task changes has to be paid for; with a blur, details finer than it are free.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel):
        """What of the images is compared."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        blur: float = Field(
            0.0,
            ge=0,
            le=0.25,
            description="Blur both images first, with a standard deviation of this share of the height; 0: pixels.",
        )

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B]: mean squared distance to the base's images, pixels in [0, 1]."""
        # `grad` so that the base stops at the same sampling step; nothing is differentiated, for the LoRA is off.
        base = generator.sample(prompts, seeds, grad=True, base=True).images.detach()
        # The blur is linear: that of a difference is the difference of two.
        return blurred(sample.images - base, self.params.blur).square().flatten(1).mean(1)
