"""Every family of vision-language models as a judge: small random models, their own classes, processors, templates."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from small_judges import FAMILIES, save
from torch import Tensor

from dualproc import registry
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.types import Question

TEXTS = ("Is the line red?", "Is the image a drawing of a cat or a dog? Answer with Yes or No.", "Is it dark?")
ABSOLUTE = {"atol": 1e-4, "rtol": 0}

Load = Callable[[str], TransformersJudge]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """Builds a family's small model, saves it, and loads it as the judge that its preset describes."""

    @cache
    def load(family: str) -> TransformersJudge:
        if family == "smolvlm2" and importlib.util.find_spec("num2words") is None:
            pytest.skip("the processor of SmolVLM needs the package num2words")
        folder = save(family, tmp_path_factory.mktemp("judges") / family)
        given = {"model": str(folder), "dtype": "float32", "device": "cpu"}
        return TransformersJudge(registry.load("judges", family).params(given))

    return load


@pytest.fixture(params=FAMILIES)
def judge(request: pytest.FixtureRequest, load: Load) -> TransformersJudge:
    return load(request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def questions(*rows: Sequence[str], candidates: tuple[str, ...] = ("Yes", "No")) -> list[list[Question]]:
    return [[Question(text, candidates) for text in row] for row in rows]


def gradient(scores: Tensor, images: Tensor) -> Tensor:
    """Of the sum of the first candidate's scores in the pixels."""
    (found,) = torch.autograd.grad(scores[..., 0].sum(), images)
    return found


def one_by_one(judge: TransformersJudge, images: Tensor, asked: list[list[Question]]) -> Tensor:
    """[B, Q, K]: every image and every question in a call of its own."""
    rows = [
        torch.cat([judge.answer_log_likelihoods(images[b : b + 1], [[q]]).log_likelihoods for q in row], dim=1)
        for b, row in enumerate(asked)
    ]
    return torch.cat(rows)


def test_answers_depend_on_image_and_question(judge: TransformersJudge, images: Tensor) -> None:
    answers = judge.answer_log_likelihoods(images, questions(TEXTS, TEXTS))
    found = answers.log_likelihoods
    assert found.shape == (2, 3, 2)
    assert answers.token_counts.tolist() == [[1, 1]] * 3
    assert found.isfinite().all()
    assert (found <= 0).all()
    assert (found[0] - found[1]).abs().max() > 0.01
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.01


def test_the_gradient_reaches_every_image_and_no_weight(judge: TransformersJudge, images: Tensor) -> None:
    found = gradient(judge.answer_log_likelihoods(images, questions(TEXTS, TEXTS)).log_likelihoods, images)
    assert found.isfinite().all()
    # Bilinear reduction to half the size may pass over no pixel at all.
    assert ((found.abs().sum(1) > 0).float().mean((1, 2)) > 0.9).all()
    assert all(p.grad is None and not p.requires_grad for p in judge.model.parameters())


def test_two_images_together_are_each_alone(judge: TransformersJudge, images: Tensor) -> None:
    asked = questions(TEXTS[:1], TEXTS[1:2])
    together = judge.answer_log_likelihoods(images, asked).log_likelihoods
    for b in range(2):
        alone = judge.answer_log_likelihoods(images[b : b + 1], asked[b : b + 1]).log_likelihoods
        torch.testing.assert_close(together[b : b + 1], alone, **ABSOLUTE)


@pytest.mark.parametrize("second", [TEXTS, TEXTS[::-1]], ids=["the same", "others of the second image"])
def test_questions_together_are_each_alone(judge: TransformersJudge, images: Tensor, second: Sequence[str]) -> None:
    asked = questions(TEXTS, second)
    together, alone = judge.answer_log_likelihoods(images, asked).log_likelihoods, one_by_one(judge, images, asked)
    torch.testing.assert_close(together, alone, **ABSOLUTE)
    theirs, wanted = gradient(together, images), gradient(alone, images)
    assert (theirs - wanted).norm() <= 1e-3 * wanted.norm()


def test_an_answer_of_two_tokens_is_scored_token_by_token(judge: TransformersJudge, images: Tensor) -> None:
    """Against whole passes of the model over prompt and answer so far, as `generate` would hand them to it."""
    candidates = ("dark red", "No", "dark light")
    answers = judge.answer_log_likelihoods(images, questions(TEXTS[:2], TEXTS[:2], candidates=candidates))
    assert answers.token_counts.tolist() == [[2, 1, 2]] * 2
    expected = [[whole_passes(judge, images[b : b + 1], text, candidates) for text in TEXTS[:2]] for b in range(2)]
    torch.testing.assert_close(answers.log_likelihoods, torch.tensor(expected), **ABSOLUTE)


SPACED = ("idefics2", "idefics3", "smolvlm2", "llava-1.5")
"""Families whose prompt ends with "Assistant:", so that the answer begins with a space; else it begins a line, or
follows a special token (Pixtral), and has no space of its own."""


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_begins_as_the_family_writes_it(family: str, load: Load) -> None:
    judge = load(family)
    tokens = judge.tokenizer.convert_ids_to_tokens(judge._answer_ids(TEXTS[0], "dark red"))
    assert tokens == [" dark" if family in SPACED else "dark", " red"]


def whole_passes(judge: TransformersJudge, image: Tensor, text: str, candidates: Sequence[str]) -> list[float]:
    from transformers.utils import ModelOutput

    scores = []
    for candidate in candidates:
        inputs, score = judge._inputs(image.detach(), [judge._prompt(text)]), 0.0
        for token in judge._answer_ids(text, candidate):
            with torch.no_grad():
                score += judge.model(**inputs, use_cache=False).logits[0, -1].log_softmax(-1)[token].item()
            longer = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
            inputs = judge.model._update_model_kwargs_for_generation(ModelOutput(), inputs, is_encoder_decoder=False)
            inputs["input_ids"] = longer
        scores.append(score)
    return scores


def test_it_answers_in_words(judge: TransformersJudge, images: Tensor) -> None:
    said = judge.generate(images.detach(), TEXTS[:2], max_new_tokens=3)
    assert len(said) == 2
    assert all(isinstance(text, str) for text in said)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_on_unless_the_image_sees_the_question(family: str, load: Load) -> None:
    """PaliGemma's image and question see each other, so there is nothing to go on from."""
    assert load(family).reads_on == (family != "paligemma2")


VIEWS = {"llava-onevision": 5, "mllama": 4}
"""Of families whose tiles are settled in the model's configuration; all others are to see one view."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_preset_of_one_view(family: str, load: Load, images: Tensor) -> None:
    """It names a model of a hub, and its arguments do what they should in the family's image processor."""
    preset = registry.load("judges", family).params({})
    assert preset.dtype == "bfloat16"
    assert preset.model.count("/") == 1
    judge = load(family)
    pixels = judge._inputs(images[:1].detach(), [judge._prompt(TEXTS[0])])["pixel_values"]
    assert pixels.shape[:-3].numel() == VIEWS.get(family, 1)
