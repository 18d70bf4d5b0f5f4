"""The base-denoise anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dualproc.protocols import Generator
from dualproc.types import Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseDenoise:
    """Keeps the images ones that the base would leave alone: re-noised, the base denoises them to the same place.

    The clean latents are re-noised to a level t, drawn uniformly from [low, high], and denoised in one step by the base
    weights, without gradient. The squared distance is the penalty: small where the base finds the image likely,
    whatever it shows, and large on the grids and fringes of an exploited judge.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel):
        """The noise levels."""

        model_config = ConfigDict(extra="forbid", frozen=True)

        low: float = Field(0.15, gt=0, lt=1, description="Lowest noise level (0 is clean, 1 is noise).")
        high: float = Field(0.45, gt=0, lt=1, description="Highest noise level.")

        @model_validator(mode="after")
        def _ordered(self) -> BaseDenoise.Params:
            if self.low > self.high:
                raise ValueError("low must not be above high")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B]: mean squared distance between the latents and what the base makes of them, re-noised."""
        import torch

        level = self.params.low + (self.params.high - self.params.low) * torch.rand((), generator=rng).item()
        target = generator.denoise(sample.latents.detach(), level, prompts, seeds, base=True)
        return (sample.latents - target).square().flatten(1).mean(1)
