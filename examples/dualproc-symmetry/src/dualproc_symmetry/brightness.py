"""The judge `brightness`: a plain function of the pixels that answers whether an image is bright, or dark."""

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
"""How bright red, green and blue look beside each other (ITU-R BT.601)."""


class Brightness:
    """Answers whether an image is bright or dark, from the mean of its pixels; no network, so it trains in seconds.

    P(Yes) to "Is the image bright?" is a logistic function of the mean luma, 0.5 at `middle`.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """What is bright, and how sure the judge is."""

        middle: float = Field(0.5, gt=0, lt=1, description="Mean luma that is neither bright nor dark.")
        sureness: float = Field(20.0, gt=0, description="How fast the log-odds of Yes rise with the luma.")

    def __init__(self, params: Params) -> None:
        self.params = params

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Log-likelihood [B, Q, K] of Yes and No to `questions[b][q]` about `images[b]` ([B, 3, H, W] in [0, 1]).

        Raises:
            PluginError: a question says neither bright nor dark, or a candidate is neither Yes nor No.
        """
        import torch
        from torch.nn.functional import logsigmoid

        luma = (images.mean(dim=(2, 3)) * images.new_tensor(LUMA)).sum(dim=1)
        signs = images.new_tensor([[_sign(question.text) for question in row] for row in questions])
        log_odds = self.params.sureness * (luma - self.params.middle)[:, None] * signs
        yes_and_no = torch.stack([logsigmoid(log_odds), logsigmoid(-log_odds)], dim=-1)
        candidates = [[_answer(candidate) for candidate in question.candidates] for question in questions[0]]
        picked = torch.tensor(candidates, device=images.device)
        return Answers(yes_and_no.gather(2, picked.expand(len(images), -1, -1)), torch.ones_like(picked))

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Yes or No, whichever is likelier, to one question per image."""
        answers = self.answer_log_likelihoods(images, [[Question(text)] for text in questions])
        return [("Yes", "No")[best] for best in answers.log_likelihoods[:, 0].argmax(dim=-1).tolist()]


def _sign(text: str) -> float:
    """1 if a question is about brightness, -1 if it is about darkness."""
    for word, sign in SIGNS.items():
        if word in text.lower():
            return sign
    raise PluginError(
        f"the judge brightness cannot answer {text!r}", hint="ask whether the image is bright, or whether it is dark"
    )


def _answer(candidate: str) -> int:
    if candidate.lower() not in ANSWERS:
        raise PluginError(
            f"the judge brightness does not say {candidate!r}", hint="let the question's candidates be Yes and No"
        )
    return ANSWERS[candidate.lower()]
