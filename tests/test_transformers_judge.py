"""The judge `transformers` with the shipped models: frozen, differentiable with respect to the pixels, exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_judges import generated_log_likelihood
from torch import Tensor
from transformers import CLIPImageProcessor

from dualproc.errors import PluginError
from dualproc.plugins.judges.presets import TINY, TINY_REFEREE
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.types import Question

TEXTS = ("Is the red line at the horizon of the image?", "Is this a drawing of a cat? Answer with Yes or No.")


@pytest.fixture(scope="module", params=[TINY, TINY_REFEREE], ids=["judge", "referee"])
def judge(request: pytest.FixtureRequest) -> TransformersJudge:
    return TransformersJudge(TransformersJudge.Params(**request.param.params))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def both_images(*texts: str, candidates: tuple[str, ...] = ("Yes", "No")) -> list[list[Question]]:
    return [[Question(text, candidates) for text in texts]] * 2


def test_the_gradient_reaches_the_pixels_and_nothing_else(judge: TransformersJudge, images: torch.Tensor) -> None:
    images.requires_grad_()
    answers = judge.answer_log_likelihoods(images, both_images(*TEXTS))
    assert answers.log_likelihoods.shape == (2, 2, 2)
    assert answers.token_counts.tolist() == [[1, 1], [1, 1]]
    answers.log_likelihoods[:, :, 0].sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()
    assert all(p.grad is None for p in judge.model.parameters())


def test_probabilities_are_over_the_whole_vocabulary(judge: TransformersJudge, images: torch.Tensor) -> None:
    likely = judge.answer_log_likelihoods(images, both_images(TEXTS[0])).log_likelihoods.exp().sum(-1)
    unlikely = (
        judge.answer_log_likelihoods(images, both_images(TEXTS[0], candidates=("cat", "dog")))
        .log_likelihoods.exp()
        .sum(-1)
    )
    assert (likely > 0.9).all()
    assert (likely + unlikely < 1 + 1e-5).all()


def test_questions_of_different_lengths_do_not_affect_each_other(
    judge: TransformersJudge, images: torch.Tensor
) -> None:
    """A batch is padded to the longest question."""
    mixed = [[Question(TEXTS[0])], [Question(TEXTS[1])]]
    together = judge.answer_log_likelihoods(images, mixed).log_likelihoods
    for row in range(2):
        alone = judge.answer_log_likelihoods(images[row : row + 1], mixed[row : row + 1]).log_likelihoods
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)


def test_an_answer_of_several_tokens_has_the_sum_of_their_log_likelihoods(
    judge: TransformersJudge, images: torch.Tensor
) -> None:
    answers = judge.answer_log_likelihoods(images, both_images(TEXTS[0], candidates=("Yes red line", "No")))
    assert answers.token_counts.tolist() == [[3, 1]]
    for b in range(2):
        expected = generated_log_likelihood(judge, images[b : b + 1], TEXTS[0], ["yes", "red", "line"])
        assert answers.log_likelihoods[b, 0, 0].item() == pytest.approx(expected, abs=1e-4)


def test_an_answer_with_unknown_words_is_refused(judge: TransformersJudge, images: torch.Tensor) -> None:
    with pytest.raises(PluginError, match=r"the tokenizer of the judge .* cannot represent the answer 'Xylophone'"):
        judge.answer_log_likelihoods(images, both_images(TEXTS[0], candidates=("Xylophone", "No")))


def test_candidates_that_are_the_same_tokens_are_refused(judge: TransformersJudge, images: torch.Tensor) -> None:
    """The shipped tokenizers read capital letters as small ones."""
    for refuse in (
        lambda one: judge.check_questions([Question(TEXTS[0]), one]),
        lambda one: judge.answer_log_likelihoods(images, [[one]] * 2),
    ):
        for same in (Question(TEXTS[0], ("Yes", "yes")), Question(TEXTS[0], ("Yes", "No"), synonyms=("red", "no"))):
            with pytest.raises(PluginError, match=r"reads the candidates .* as the same tokens.*\n.*`answer: \["):
                refuse(same)
    with pytest.raises(PluginError, match="cannot represent the answer 'Xylophone'"):
        judge.check_questions([Question(TEXTS[0], ("Xylophone", "No"))])
    judge.check_questions([Question(TEXTS[0]), Question(TEXTS[1], ("red", "dark"))])


def test_probabilities_of_the_wordings_of_an_answer_are_added(judge: TransformersJudge, images: torch.Tensor) -> None:
    def probabilities(*synonyms: str, candidates: tuple[str, ...] = ("Yes", "No")) -> Tensor:
        asked = [[Question(TEXTS[1], candidates, 0, synonyms)]] * 2
        return judge.answer_log_likelihoods(images, asked).log_likelihoods.exp()[:, 0]

    yes, no = probabilities().unbind(1)
    cat = probabilities(candidates=("cat", "No"))[:, 0]
    assert (cat > 0).all()
    torch.testing.assert_close(probabilities("cat"), torch.stack([yes + cat, no], 1))
    assert torch.equal(probabilities("yes", "YES"), probabilities())  # the same tokens are counted once
    torch.testing.assert_close(probabilities("Yes cat"), probabilities())  # an answer that begins with Yes


def test_generate_answers_in_words(judge: TransformersJudge, images: torch.Tensor) -> None:
    answers = judge.generate(images, [TEXTS[1]] * 2, max_new_tokens=1)
    assert len(answers) == 2
    assert set(answers) <= {"yes", "no"}


def test_arguments_of_the_chat_template_reach_it(images: torch.Tensor) -> None:
    """A template that thinks unless it is told not to; here a thought is the word `cat`."""
    plain = TransformersJudge(TransformersJudge.Params(**TINY.params))
    thinks = plain.processor.chat_template + "{% if enable_thinking is not false %} cat{% endif %}"

    def answers(**params: Any) -> Tensor:
        judge = TransformersJudge(TransformersJudge.Params(**{**TINY.params, "template": thinks, **params}))
        return judge.answer_log_likelihoods(images, both_images(TEXTS[0])).log_likelihoods

    with torch.no_grad():
        expected = plain.answer_log_likelihoods(images, both_images(TEXTS[0])).log_likelihoods
        torch.testing.assert_close(answers(chat={"enable_thinking": False}), expected)
        assert (answers() - expected).abs().max() > 0.1


def stretched(image: Tensor) -> Tensor:
    return (image - image.min()) / (image.max() - image.min())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (stretched, r"different pixels for a tensor and for the same 8-bit image: they differ by up to [01]\.\d"),
        (Tensor.detach, "cuts the gradient to the image"),
        (lambda image: image.round(decimals=4), "cuts the gradient to the image"),
    ],
    ids=["stretches", "detaches", "rounds"],
)
def test_a_processor_that_cannot_train_is_refused(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], message: str
) -> None:
    """Its image processor changes tensors in [0, 1], but not 8-bit images."""
    process = CLIPImageProcessor.__call__

    def changed(self: Any, images: list[Any], **kwargs: Any) -> Any:
        nested = [one if isinstance(one, list) else [one] for one in images]
        flat = [change(image) if isinstance(image, Tensor) else image for each in nested for image in each]
        return process(self, flat, **kwargs)

    monkeypatch.setattr(CLIPImageProcessor, "__call__", changed)
    with torch.no_grad(), pytest.raises(PluginError, match=message):
        TransformersJudge(TransformersJudge.Params(**TINY.params))


def test_a_missing_model_is_named() -> None:
    with pytest.raises(PluginError, match="cannot load the judge '/no/such/folder'"):
        TransformersJudge(TransformersJudge.Params(model="/no/such/folder"))
