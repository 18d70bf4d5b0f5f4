"""The judge `brightness`: answers whether an image is bright or dark, as a plain function of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from dualproc.errors import PluginError
from dualproc.types import Answers, Question
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from torch import Tensor

SIGNS = {"bright": 1.0, "light": 1.0, "dark": -1.0}
ANSWERS = {"yes": 0, "no": 1}
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the perceived brightness (ITU-R BT.601)."""


class Brightness:
    """Answers whether an image is bright or dark, from its mean luma; it has no network, so training takes seconds.

    P(Yes) for "Is the image bright?" is a logistic function of the mean luma; it is 0.5 at `middle`.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Where bright begins, and how confident the judge is away from it."""

        middle: float = Field(0.5, gt=0, lt=1, description="Mean luma at which P(Yes) is 0.5.")
        steepness: float = Field(20.0, gt=0, description="Slope of the log-odds of Yes over the luma.")

    def __init__(self, params: Params) -> None:
        self.params = params

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Log-likelihood [B, Q, K] of Yes and No to `questions[b][q]` about `images[b]` ([B, 3, H, W] in [0, 1]).

        Raises:
            PluginError: a question mentions neither bright nor dark, or a candidate is neither Yes nor No.
        """
        import torch
        from torch.nn.functional import logsigmoid

        luma = (images.mean(dim=(2, 3)) * images.new_tensor(LUMA)).sum(dim=1)
        signs = images.new_tensor([[_sign(question.text) for question in row] for row in questions])
        log_odds = self.params.steepness * (luma - self.params.middle)[:, None] * signs
        yes_and_no = torch.stack([logsigmoid(log_odds), logsigmoid(-log_odds)], dim=-1)
        candidates = [[_answer(candidate) for candidate in question.candidates] for question in questions[0]]
        picked = torch.tensor(candidates, device=images.device)
        return Answers(yes_and_no.gather(2, picked.expand(len(images), -1, -1)), torch.ones_like(picked))

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """The more probable answer, Yes or No, to one question per image."""
        answers = self.answer_log_likelihoods(images, [[Question(text)] for text in questions])
        return [("Yes", "No")[best] for best in answers.log_likelihoods[:, 0].argmax(dim=-1).tolist()]


def _sign(text: str) -> float:
    """1 if a question is about brightness, -1 if it is about darkness."""
    for word, sign in SIGNS.items():
        if word in text.lower():
            return sign
    raise PluginError(
        f"the judge brightness cannot answer {text!r}", hint="ask whether the image is bright or whether it is dark"
    )


def _answer(candidate: str) -> int:
    if candidate.lower() not in ANSWERS:
        raise PluginError(
            f"the judge brightness cannot answer {candidate!r}", hint="set the question's candidates to Yes and No"
        )
    return ANSWERS[candidate.lower()]
