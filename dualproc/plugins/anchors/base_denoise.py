"""The base-denoise anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator

from dualproc.protocols import Generator
from dualproc.types import Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseDenoise:
    """Penalises images that the base model would change: add noise, denoise with the base, measure the distance.

    Noise is added to the clean latents up to a level drawn uniformly from [low, high]. The base weights denoise them in
    one step, without gradient. The penalty is the mean squared distance to the result: small if the image is likely
    under the base model, regardless of its content, and large for the grids and fringes of reward hacking.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The range of noise levels."""

        low: float = Field(0.15, gt=0, lt=1, description="Lowest noise level, from 0 (clean) to 1 (pure noise).")
        high: float = Field(0.45, gt=0, lt=1, description="Highest noise level, at least `low`.")

        @model_validator(mode="after")
        def _ordered(self) -> BaseDenoise.Params:
            if self.low > self.high:
                raise ValueError(f"`low` ({self.low:g}) is above `high` ({self.high:g})")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties >= 0: mean squared distance from the latents to what the base denoises them to."""
        import torch

        level = self.params.low + (self.params.high - self.params.low) * torch.rand((), generator=rng).item()
        target = generator.denoise(sample.latents.detach(), level, prompts, seeds, base=True)
        return (sample.latents - target).square().flatten(1).mean(1)
