"""The base-layout anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc.kit.structure import structure
from dualproc.protocols import Generator
from dualproc.types import Sample

from .base_image import base_images

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseLayout:
    """Penalises a layout unlike that of the base model's image of the same prompt and seed.

    The penalty is 1 - the correlation of the blurred edge maps of the two images (`dualproc.kit.structure`). It hardly
    limits colours and the thickness of outlines. Without it, long training makes the images of different
    seeds similar. *diversity* is measured on the same edge maps, so with this anchor it is no independent measurement.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """It has none."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties in [0, 2]: 0 for the layout of the base image, about 1 for an unrelated one."""
        base = base_images(generator, prompts, seeds)
        return 1 - (structure(sample.images) * structure(base)).sum(1)
