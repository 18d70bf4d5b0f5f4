"""The base-answers anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field

from dualproc.protocols import Generator, Judge
from dualproc.types import Question, Sample

from .base_image import base_images

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class BaseAnswers:
    """Keeps the judge's answers to other questions as they are for the base image of the same prompt and seed.

    The questions are about what the task does not ask for: `Is the sky blue?` where the task is a horizon. The penalty
    is the mean, over questions and answers, of the squared difference of the two images' P(answer). The judge sees both
    without the visual prompt. It costs the judge's answers twice more in each step.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The questions."""

        questions: tuple[str, ...] = Field(
            min_length=1, max_length=100, description="Questions that are answered with Yes or No; no placeholders."
        )
        suffix: str = Field("Answer with Yes or No.", max_length=2000, description="Added after each question.")

    def __init__(self, params: Params) -> None:
        self.params = params
        self.judge: Judge | None = None
        """The spec's judge, set by the engine."""

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties in [0, 1]: mean squared difference of P(answer) to that for the base images."""
        import torch

        assert self.judge is not None
        asked = [[Question(f"{text} {self.params.suffix}".strip()) for text in self.params.questions]] * len(prompts)
        with torch.no_grad():
            base = self.judge.answer_log_likelihoods(base_images(generator, prompts, seeds), asked).log_likelihoods
        found = self.judge.answer_log_likelihoods(sample.images, asked).log_likelihoods
        return (found.exp() - base.exp()).square().flatten(1).mean(1)
