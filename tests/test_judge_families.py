"""Every family of vision-language models as a judge: small random models with their own classes and processors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from small_judges import FAMILIES, generated_log_likelihood, pixels_of, save
from torch import Tensor

from dualproc import registry
from dualproc.errors import PluginError
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.types import Question

TEXTS = ("Is the line red?", "Is the image a drawing of a cat or a dog? Answer with Yes or No.", "Is it dark?")
ABSOLUTE = {"atol": 1e-4, "rtol": 0}

Load = Callable[[str], TransformersJudge]


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A function that builds and saves a family's small model, and loads it with the family's preset."""

    @cache
    def load(family: str) -> TransformersJudge:
        if family == "smolvlm2" and importlib.util.find_spec("num2words") is None:
            pytest.skip("the processor of SmolVLM2 needs the package num2words")
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
    """The gradient of the sum of the first candidate's scores with respect to the pixels."""
    (found,) = torch.autograd.grad(scores[..., 0].sum(), images)
    return found


def one_by_one(judge: TransformersJudge, images: Tensor, asked: list[list[Question]]) -> Tensor:
    """[B, Q, K]: log-likelihoods from a separate call for each image and question."""
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
    # A processor that downscales may ignore some pixels.
    assert ((found.abs().sum(1) > 0).float().mean((1, 2)) > 0.9).all()
    assert all(p.grad is None and not p.requires_grad for p in judge.model.parameters())


def test_the_answers_about_an_image_do_not_depend_on_its_batch(judge: TransformersJudge, images: Tensor) -> None:
    asked = questions(TEXTS[:1], TEXTS[1:2])
    together = judge.answer_log_likelihoods(images, asked).log_likelihoods
    for b in range(2):
        alone = judge.answer_log_likelihoods(images[b : b + 1], asked[b : b + 1]).log_likelihoods
        torch.testing.assert_close(together[b : b + 1], alone, **ABSOLUTE)


@pytest.mark.parametrize("second", [TEXTS, TEXTS[::-1]], ids=["same questions", "other questions of the second image"])
def test_questions_have_the_same_answers_together_and_one_by_one(
    judge: TransformersJudge, images: Tensor, second: Sequence[str]
) -> None:
    asked = questions(TEXTS, second)
    together, alone = judge.answer_log_likelihoods(images, asked).log_likelihoods, one_by_one(judge, images, asked)
    torch.testing.assert_close(together, alone, **ABSOLUTE)
    found, expected = gradient(together, images), gradient(alone, images)
    assert (found - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_has_the_probability_that_generate_gives_its_tokens(family: str, load: Load, images: Tensor) -> None:
    """The reference is plain transformers: `generate`, forced to produce the tokens of the answer."""
    judge, candidates = load(family), ("dark red", "No", "dark light")
    answers = judge.answer_log_likelihoods(images, questions(TEXTS[:2], TEXTS[:2], candidates=candidates))
    assert answers.token_counts.tolist() == [[2, 1, 2]] * 2
    expected = [
        [
            [
                generated_log_likelihood(judge, images[b : b + 1], text, tokens_of(family, answer))
                for answer in candidates
            ]
            for text in TEXTS[:2]
        ]
        for b in range(2)
    ]
    torch.testing.assert_close(answers.log_likelihoods, torch.tensor(expected), **ABSOLUTE)


SPACED = ("idefics2", "idefics3", "smolvlm2", "llava-1.5")
"""Families whose prompt ends with "Assistant:", so the answer follows a space. In others it follows a line break or a
special token, without a space."""


def tokens_of(family: str, answer: str) -> list[str]:
    """The tokens of an answer in this family's prompt."""
    first, *others = answer.split()
    return [f" {first}" if family in SPACED else first, *(f" {word}" for word in others)]


def test_generate_answers_in_words(judge: TransformersJudge, images: Tensor) -> None:
    said = judge.generate(images.detach(), TEXTS[:2], max_new_tokens=3)
    assert len(said) == 2
    assert all(isinstance(text, str) for text in said)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_features_of_an_image_are_its_own_and_have_a_gradient(family: str, load: Load, images: Tensor) -> None:
    judge = load(family)
    if family == "mllama":  # its language model reads the image by cross-attention
        with pytest.raises(PluginError, match="gives no image features"):
            judge.image_features(images)
        return
    together = judge.image_features(images)
    assert together.ndim == 3
    for b in range(2):
        torch.testing.assert_close(together[b : b + 1], judge.image_features(images[b : b + 1]), **ABSOLUTE)
    assert (together[0] - together[1]).abs().max() > 0.01
    found = gradient(together.square(), images)
    assert found.isfinite().all()
    assert (found.abs().sum((1, 2, 3)) > 0).all()
    judge.answer_log_likelihoods(images, questions(TEXTS, TEXTS))  # the model is as before


@pytest.mark.parametrize("family", FAMILIES)
def test_three_questions_take_two_passes_and_one_encoding_of_the_images(
    family: str, load: Load, images: Tensor
) -> None:
    """PaliGemma cannot use a cache, because its image and question tokens attend to each other: three passes."""
    judge = load(family)
    encoder = next(part for name, part in judge.model.named_modules() if name.endswith(ENCODERS))
    passes: list[object] = []
    encodings: list[object] = []
    hooks = [
        judge.model.register_forward_hook(lambda *call: passes.append(call[0])),
        encoder.register_forward_hook(lambda *call: encodings.append(call[0])),
    ]
    judge.answer_log_likelihoods(images, questions(TEXTS, TEXTS))
    for hook in hooks:
        hook.remove()
    assert len(passes) == (3 if family == "paligemma2" else 2)
    assert len(encodings) == 1


ENCODERS = ("vision_tower", "vision_model", "visual")
"""The names of the image encoder in all families."""
VIEWS = {"llava-onevision": 5, "mllama": 4}
"""The number of views of an image in families that need tiles; all others get one view."""


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_preset_with_the_fewest_views(family: str, load: Load, images: Tensor) -> None:
    """The arguments of the preset have their effect in the family's image processor."""
    preset = registry.load("judges", family).params({})
    assert preset.dtype == "bfloat16"
    assert preset.model.count("/") == 1
    pixels = pixels_of(load(family), images[:1])
    assert pixels.shape[:-3].numel() == VIEWS.get(family, 1)
