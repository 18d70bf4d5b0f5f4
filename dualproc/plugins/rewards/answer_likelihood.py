"""The reward of the paper: the log-likelihood of the wanted answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc.types import Answers

if TYPE_CHECKING:
    from torch import Tensor


class AnswerLikelihood:
    """Log-likelihood of the wanted answer, averaged over the questions.

    The other candidate answers have no influence. Source: Luo et al., Dual-Process Image Generation (arXiv 2506.01955).
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        """[B] rewards <= 0: the mean over the questions q of log P(candidate `wanted[q]`)."""
        questions = range(len(wanted))
        return answers.log_likelihoods[:, questions, list(wanted)].mean(dim=1)
