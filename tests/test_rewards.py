"""The rewards: their values, their gradients, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from dualproc.errors import PluginError
from dualproc.plugins.rewards.answer_likelihood import AnswerLikelihood
from dualproc.plugins.rewards.yes_no_gap import YesNoGap
from dualproc.types import Answers


def answers(probabilities: list[list[list[float]]]) -> Answers:
    scores = torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_()
    return Answers(scores, torch.ones(scores.shape[1:], dtype=torch.long))


TWO_IMAGES = [[[0.5, 0.25], [0.1, 0.4]], [[0.2, 0.2], [0.05, 0.8]]]


def test_answer_likelihood_is_the_mean_log_probability_of_the_wanted_answers() -> None:
    reward = AnswerLikelihood(AnswerLikelihood.Params())(answers(TWO_IMAGES), [0, 1])
    expected = [(math.log(0.5) + math.log(0.4)) / 2, (math.log(0.2) + math.log(0.8)) / 2]
    assert reward.tolist() == pytest.approx(expected)


def test_the_gradient_of_answer_likelihood_reaches_the_wanted_answers_only() -> None:
    given = answers(TWO_IMAGES)
    AnswerLikelihood(AnswerLikelihood.Params())(given, [0, 1]).sum().backward()
    assert given.log_likelihoods.grad is not None
    assert given.log_likelihoods.grad.tolist() == [[[0.5, 0.0], [0.0, 0.5]]] * 2


def test_yes_no_gap_is_the_mean_log_odds() -> None:
    reward = YesNoGap(YesNoGap.Params())(answers(TWO_IMAGES), [0, 1])
    expected = [(math.log(0.5 / 0.25) + math.log(0.4 / 0.1)) / 2, (math.log(1) + math.log(0.8 / 0.05)) / 2]
    assert reward.tolist() == pytest.approx(expected)


def test_yes_no_gap_sums_over_all_other_candidates() -> None:
    reward = YesNoGap(YesNoGap.Params())(answers([[[0.2, 0.5, 0.1]]]), [1])
    assert reward.tolist() == pytest.approx([math.log(0.5 / 0.3)])


@pytest.mark.parametrize("wanted", [[0, 0], [2, 1]])
def test_gradients_agree_with_finite_differences(wanted: list[int]) -> None:
    scores = torch.randn(2, 2, 3, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    counts = torch.ones(2, 3, dtype=torch.long)
    for reward in (AnswerLikelihood(AnswerLikelihood.Params()), YesNoGap(YesNoGap.Params())):
        assert torch.autograd.gradcheck(lambda x, r=reward: r(Answers(x, counts), wanted), scores)


def test_yes_no_gap_refuses_a_single_candidate() -> None:
    with pytest.raises(PluginError, match="only one candidate answer") as caught:
        YesNoGap(YesNoGap.Params())(answers([[[0.5]]]), [0])
    assert "answer_likelihood" in (caught.value.hint or "")
