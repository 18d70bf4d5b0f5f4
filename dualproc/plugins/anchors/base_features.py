"""The base-features anchor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc.errors import PluginError
from dualproc.protocols import Generator, Judge
from dualproc.types import Sample

from .base_image import base_images

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseFeatures:
    """Keeps what the judge sees of the image near what it sees of the base image of the same prompt and seed.

    The penalty is the mean, over the tokens that the judge's image encoder makes of an image, of 1 minus the cosine
    similarity of the two images' features. So the content of each place is kept, and small changes of its pixels are
    free. The judge sees both images without the visual prompt; it needs the method `image_features`, which the judge
    `transformers` has and several judges as one have not.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """It has none."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self._judge: Judge | None = None
        self._encode: Callable[[Tensor], Tensor] | None = None

    @property
    def judge(self) -> Judge | None:
        """The spec's judge, set by the engine. Raises PluginError, when set, for a judge without image features."""
        return self._judge

    @judge.setter
    def judge(self, judge: Judge | None) -> None:
        self._judge, self._encode = judge, getattr(judge, "image_features", None)
        if judge is not None and self._encode is None:
            raise PluginError(
                f"the anchor base_features needs a judge with image features, and {type(judge).__name__} has none",
                hint="name one judge of the type `transformers` or its presets, or another anchor, such as base_image",
            )

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties in [0, 2]: 1 - the mean cosine similarity of the features of each token."""
        import torch
        import torch.nn.functional as F

        assert self._encode is not None
        with torch.no_grad():
            base = self._encode(base_images(generator, prompts, seeds)).float()
        return 1 - F.cosine_similarity(self._encode(sample.images).float(), base, dim=-1).mean(1)
