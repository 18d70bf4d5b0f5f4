"""The judge `brightness`."""

from __future__ import annotations

import pytest
import torch
from dualproc.errors import PluginError
from dualproc.testing import check_judge
from dualproc.types import Question

from dualproc_symmetry.brightness import Brightness

BRIGHT, DARK = "Is the image bright? Answer with Yes or No.", "Is the image dark? Answer with Yes or No."
JUDGE = Brightness(Brightness.Params(middle=0.5, steepness=10))


def test_brightness_follows_the_protocol() -> None:
    check_judge(Brightness, {"middle": 0.4}, questions=(BRIGHT, DARK))
    check_judge("brightness", questions=(BRIGHT, DARK))


def test_probability_is_logistic_in_the_luma() -> None:
    images = torch.tensor([0.0, 0.5, 0.6, 1.0])[:, None, None, None].expand(4, 3, 8, 8)
    answers = JUDGE.answer_log_likelihoods(images, [[Question(BRIGHT), Question(DARK)]] * 4)
    bright, dark = answers.log_likelihoods[..., 0].exp().unbind(dim=1)
    expected = torch.sigmoid(torch.tensor([-5.0, 0.0, 1.0, 5.0]))
    assert bright.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert dark.tolist() == pytest.approx((1 - expected).tolist(), abs=1e-6)


def test_green_is_brighter_than_red_and_red_than_blue() -> None:
    images = torch.eye(3)[:, :, None, None].expand(3, 3, 8, 8)
    answers = JUDGE.answer_log_likelihoods(images, [[Question(BRIGHT)]] * 3)
    red, green, blue = answers.log_likelihoods[:, 0, 0].tolist()
    assert green > red > blue


def test_gradient_makes_an_image_brighter_or_darker() -> None:
    for question, sign in ((BRIGHT, 1), (DARK, -1)):
        images = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
        answers = JUDGE.answer_log_likelihoods(images, [[Question(question)]])
        torch.autograd.backward(answers.log_likelihoods[0, 0, 0])
        assert images.grad is not None
        assert (sign * images.grad > 0).all()


def test_generate_answers_yes_or_no() -> None:
    images = torch.tensor([0.1, 0.9])[:, None, None, None].expand(2, 3, 8, 8)
    assert JUDGE.generate(images, [BRIGHT, DARK]) == ["No", "No"]
    assert JUDGE.generate(images, [DARK, BRIGHT]) == ["Yes", "Yes"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (Question("Is this a cat?"), "cannot answer 'Is this a cat"),
        (Question(DARK, ("Maybe", "No")), "cannot answer 'Maybe'"),
    ],
)
def test_unknown_questions_and_candidates_are_refused(question: Question, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        JUDGE.answer_log_likelihoods(torch.zeros(1, 3, 8, 8), [[question]])
