"""The reward that compares the wanted answer with the other candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc.errors import PluginError
from dualproc.types import Answers

if TYPE_CHECKING:
    from torch import Tensor


class YesNoGap:
    """Log-odds of the wanted answer against all other candidates, averaged over the questions.

    Unlike the likelihood of the wanted answer alone, it does not rise if the judge merely becomes less likely to answer
    something that is not a candidate. NP-Edit (arXiv 2510.14978) found it to work better.
    """

    api_version: ClassVar[int] = 1
    least_candidates: ClassVar[int] = 2

    class Params(BaseModel, extra="forbid", frozen=True):
        """No parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        """[B] rewards, unbounded: the mean over the questions of log P(wanted) - log(sum of the other candidates' P).

        Raises PluginError if there is only one candidate answer.
        """
        import torch
        from torch.nn.functional import one_hot

        scores = answers.log_likelihoods
        if scores.shape[-1] < 2:
            raise PluginError(
                "the reward yes_no_gap compares the wanted answer with others, but there is only one candidate answer",
                hint="add a second candidate to the question, or use `reward: {type: answer_likelihood}`",
            )
        # A mask made on the CPU and no indexing by it: for its size, the CPU would have to wait for the GPU.
        is_wanted = one_hot(torch.tensor(wanted), scores.shape[-1]).bool().to(scores.device)
        others = scores.masked_fill(is_wanted, -torch.inf).logsumexp(dim=-1)
        return (scores[:, range(len(wanted)), list(wanted)] - others).mean(dim=1)
