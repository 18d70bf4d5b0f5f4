"""The reward that contrasts the wanted answer with the other candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc.errors import PluginError
from dualproc.types import Answers

if TYPE_CHECKING:
    from torch import Tensor


class YesNoGap:
    """Log-odds of the wanted answer against the other candidates, averaged over the questions.

    Unlike the likelihood of the wanted answer alone, it gains nothing from a judge that merely talks less about other
    things; found better in NP-Edit (arXiv 2510.14978).
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Nothing to set."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        """[B], unbounded: mean over the questions of log P(wanted) - log of the sum of P(candidate) over the others.

        Raises:
            PluginError: the questions have a single candidate answer.
        """
        import torch
        from torch.nn.functional import one_hot

        scores = answers.log_likelihoods
        if scores.shape[-1] < 2:
            raise PluginError(
                "reward yes_no_gap compares the wanted answer with the others, but there is only one candidate answer",
                hint="give the question a second candidate, or take the reward answer_likelihood",
            )
        questions, candidates = scores.shape[1:]
        is_wanted = one_hot(torch.tensor(wanted, device=scores.device), candidates).bool()
        others = scores[:, ~is_wanted].view(len(scores), questions, candidates - 1)
        return (scores[:, is_wanted] - others.logsumexp(dim=-1)).mean(dim=1)
