"""Several judges that answer as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from dualproc import resolve
from dualproc.errors import DualprocError, PluginError
from dualproc.protocols import API_VERSION, Judge
from dualproc.spec import PluginRef
from dualproc.types import Answers, Question

from . import returned

if TYPE_CHECKING:
    from torch import Tensor


class Ensemble:
    """Several judges with weights, as one judge: P(answer) is the weighted mean of the members' probabilities.

    P(answer) = sum_m w_m P_m(answer), with the weights normalised to 1. The mixture is again a probability, so
    P(wanted answer) means the same as for one judge and stays comparable with a share on target or with a referee. The
    product of the members' probabilities, or their mean logarithm, would not be a probability.

    With p = P(wanted) among two candidates, the gradient of the log-odds is sum_m w_m dp_m / (p (1 - p)), that of the
    members' mean opinion. A member counts most while it is undecided; one that is certain, either way, has hardly any
    gradient. Pleasing one member alone raises the mean by no more than its weight, so a weakness of one judge pays
    little. (The log-likelihood of one answer, without its alternatives, follows the members that already believe it:
    with `answer_likelihood`, a member that finds the answer impossible has hardly any influence.)
    """

    api_version: ClassVar[int] = API_VERSION
    Params: ClassVar[type[BaseModel]] = BaseModel
    """Unused: an ensemble is made of judges, not of parameters."""

    def __init__(self, members: Sequence[tuple[float, Judge]]) -> None:
        """`members` are weights and judges. Raises DualprocError if there is none, or a weight is not above 0."""
        weights = [weight for weight, _ in members]
        if not weights or not all(weight > 0 and math.isfinite(weight) for weight in weights):
            raise DualprocError(f"an ensemble needs judges with weights above 0, got the weights {weights}")
        self.judges = [judge for _, judge in members]
        self.weights = [weight / sum(weights) for weight in weights]

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Log of the members' mean probability [B, Q, K] of every candidate, for `images` [B, 3, H, W] in [0, 1].

        A candidate's token count [Q, K] is the largest among the members: 1 means one token for all of them.
        """
        import torch

        answers = [returned.answers(judge, images, questions) for judge in self.judges]
        weighted = [math.log(w) + one.log_likelihoods for w, one in zip(self.weights, answers, strict=True)]
        return Answers(
            log_likelihoods=torch.stack(weighted).logsumexp(0),
            token_counts=torch.stack([one.token_counts for one in answers]).amax(0),
        )

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Answer one question per image in the words of the member with the largest weight."""
        first = self.weights.index(max(self.weights))
        return self.judges[first].generate(images, questions, max_new_tokens=max_new_tokens)

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Raise PluginError if a member cannot answer these questions; see `check_questions`."""
        for judge in self.judges:
            check_questions(judge, questions)


def check_questions(judge: Judge, questions: Sequence[Question]) -> None:
    """Raise PluginError if a judge cannot say a candidate, or takes two candidates for the same answer.

    Judges without the optional method `check_questions` are only checked for answers with several wordings.
    """
    check = getattr(judge, "check_questions", None)
    if check is not None:
        check(questions)
    elif wordings := next((one.wordings[one.wanted] for one in questions if one.synonyms), None):
        message = f"the judge {type(judge).__name__} does not support several wordings of an answer"
        raise PluginError(message, hint=f"write `answer: {wordings[0]}`, or use another judge")


def build_judge(refs: Sequence[tuple[float, PluginRef]], *, build: resolve.Builder = resolve.build) -> Judge:
    """The judge for what a spec names (`TaskSpec.judges`, `TaskSpec.referees`): one judge, or an ensemble of several.

    Raises PluginError if one cannot be loaded, SpecError if its parameters are wrong.
    """
    members: list[tuple[float, Judge]] = [(weight, build("judges", ref)) for weight, ref in refs]
    return members[0][1] if len(members) == 1 else Ensemble(members)
