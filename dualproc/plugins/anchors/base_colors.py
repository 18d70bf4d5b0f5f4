"""The base-colours anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc.kit.structure import ROWS, downscaled
from dualproc.protocols import Generator
from dualproc.types import Sample

from .base_image import base_images

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DIRECTIONS = 16
"""Directions in RGB along which colours are compared, drawn anew in each step."""


class BaseColors:
    """Keeps the colours of the base model's image of the same prompt and seed, wherever in the image they are.

    For tasks that move things and should not recolour them: unlike `base_image`, a shifted subject costs nothing. The
    penalty is the sliced Wasserstein distance of the pixels' colours (Bonneel et al. 2015, doi:10.1007/
    s10851-014-0506-3), with W1: the pixels of both images are sorted along random directions in RGB, and their mean
    distance is taken rank by rank. Areas that grow or shrink change it.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """It has none."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties >= 0: mean distance of the sorted colours, with channels in [0, 1]."""
        import torch
        import torch.nn.functional as F

        directions = F.normalize(torch.randn(DIRECTIONS, 3, generator=rng), dim=1).to(sample.images)
        both = (sample.images, base_images(generator, prompts, seeds))
        ours, theirs = ((directions @ downscaled(one, ROWS).flatten(2)).sort(dim=2).values for one in both)
        return (ours - theirs).abs().mean((1, 2))
