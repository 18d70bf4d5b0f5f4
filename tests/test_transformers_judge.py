"""The transformers judge: frozen, differentiable in the pixels, exact in its log-likelihoods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
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


def ask(*texts: str, candidates: tuple[str, ...] = ("Yes", "No")) -> list[list[Question]]:
    return [[Question(text, candidates) for text in texts]] * 2


def test_gradient_reaches_the_pixels_and_nothing_else(judge: TransformersJudge, images: torch.Tensor) -> None:
    images.requires_grad_()
    answers = judge.answer_log_likelihoods(images, ask(*TEXTS))
    assert answers.log_likelihoods.shape == (2, 2, 2)
    assert answers.token_counts.tolist() == [[1, 1], [1, 1]]
    answers.log_likelihoods[:, :, 0].sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()
    assert all(p.grad is None for p in judge.model.parameters())


def test_probabilities_are_over_the_whole_vocabulary(judge: TransformersJudge, images: torch.Tensor) -> None:
    likely = judge.answer_log_likelihoods(images, ask(TEXTS[0])).log_likelihoods.exp().sum(-1)
    unlikely = (
        judge.answer_log_likelihoods(images, ask(TEXTS[0], candidates=("cat", "dog"))).log_likelihoods.exp().sum(-1)
    )
    assert (likely > 0.9).all()
    assert (likely + unlikely < 1 + 1e-5).all()


def test_a_question_costs_the_others_nothing(judge: TransformersJudge, images: torch.Tensor) -> None:
    """Asked together (padded to the longest) or alone: the same answers."""
    mixed = [[Question(TEXTS[0])], [Question(TEXTS[1])]]
    together = judge.answer_log_likelihoods(images, mixed).log_likelihoods
    for row in range(2):
        alone = judge.answer_log_likelihoods(images[row : row + 1], mixed[row : row + 1]).log_likelihoods
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=0)


def test_longer_answers_are_scored_token_by_token(judge: TransformersJudge, images: torch.Tensor) -> None:
    answers = judge.answer_log_likelihoods(images, ask(TEXTS[0], candidates=("Yes red line", "No")))
    assert answers.token_counts.tolist() == [[3, 1]]
    prompt = judge._prompt(TEXTS[0])
    total = torch.zeros(2)
    for words, word in (("", "Yes"), ("Yes", "red"), ("Yes red", "line")):
        inputs = judge._inputs(images, [f"{prompt} {words}".rstrip()] * 2)
        logits = judge.model(**inputs).logits[:, -1].float().log_softmax(-1)
        total += logits[:, judge.tokenizer.convert_tokens_to_ids(word.lower())]
    torch.testing.assert_close(answers.log_likelihoods[:, 0, 0], total, atol=1e-4, rtol=0)


def test_an_answer_without_tokens_is_refused(judge: TransformersJudge, images: torch.Tensor) -> None:
    with pytest.raises(PluginError, match="no tokens of its own for the answer 'Xylophone'"):
        judge.answer_log_likelihoods(images, ask(TEXTS[0], candidates=("Xylophone", "No")))


def test_it_answers_in_words(judge: TransformersJudge, images: torch.Tensor) -> None:
    said = judge.generate(images, [TEXTS[1]] * 2, max_new_tokens=1)
    assert len(said) == 2
    assert set(said) <= {"yes", "no"}


def stretched(image: Tensor) -> Tensor:
    return (image - image.min()) / (image.max() - image.min())


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (stretched, r"gives other pixels for a tensor than for the same 8-bit image: they differ by up to [01]\.\d"),
        (Tensor.detach, "lets no gradient through to the image"),
        (lambda image: image.round(decimals=4), "lets no gradient through to the image"),
    ],
    ids=["stretches", "detaches", "rounds"],
)
def test_a_processor_that_cannot_train_is_refused(
    monkeypatch: pytest.MonkeyPatch, how: Callable[[Tensor], Tensor], told: str
) -> None:
    """Its image processor does something else to images in [0, 1] than to those of 8 bits."""
    real = CLIPImageProcessor._preprocess

    def preprocess(self: Any, images: list[Tensor], *, do_rescale: bool, **kwargs: Any) -> Any:
        given = images if do_rescale else [how(image) for image in images]
        return real(self, given, do_rescale=do_rescale, **kwargs)

    monkeypatch.setattr(CLIPImageProcessor, "_preprocess", preprocess)
    with torch.no_grad(), pytest.raises(PluginError, match=told):
        TransformersJudge(TransformersJudge.Params(**TINY.params))


def test_a_missing_model_is_named() -> None:
    with pytest.raises(PluginError, match="cannot load the judge '/no/such/folder'"):
        TransformersJudge(TransformersJudge.Params(model="/no/such/folder"))
