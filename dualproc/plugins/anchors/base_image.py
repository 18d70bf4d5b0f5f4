"""The base-image anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.kit.structure import blurred
from dualproc.protocols import Generator
from dualproc.types import Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SMOOTH = 0.01
"""Differences far below this count as squares in `l1`, because a root has no gradient at 0."""


def base_images(generator: Generator, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """The base model's images [B, 3, H, W], at the same sampling step as those of the training step."""
    # `grad` makes the base stop at the same step; with the LoRA off, nothing is differentiable.
    return generator.sample(prompts, seeds, grad=True, base=True).images.detach()


class BaseImage:
    """Penalises the distance from each image to the base model's image of the same prompt and seed.

    The penalty is the mean squared difference of the pixels, with both images blurred if `blur` is above 0. It keeps
    layout and colours, but every change that the task needs is penalised too. With a blur, changes of details that are
    finer than the blur cost nothing.

    With `norm: l1`, it is the mean length of the difference (a group lasso over the three channels of a pixel): a
    small change of many pixels costs as much as a large change of a few. So areas that the task does not need keep
    their colours, and the others may change freely.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """How the images are compared."""

        blur: float = Field(
            0.0,
            ge=0,
            le=0.25,
            description="Blur both images first; the standard deviation as a share of the image height, 0 for no blur.",
        )
        norm: Literal["l2", "l1"] = Field(
            "l2",
            description="`l2`: squared difference. `l1`: length of the difference, which keeps changes to few areas.",
        )

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties >= 0: mean difference to the base images, squared or not, with pixels in [0, 1]."""
        base = base_images(generator, prompts, seeds)
        # The blur is linear: blurring the difference equals the difference of the blurred images.
        squared = blurred(sample.images - base, self.params.blur).square().mean(1).flatten(1)
        lengths = (squared + SMOOTH**2).sqrt() - SMOOTH if self.params.norm == "l1" else squared
        return lengths.mean(1)
