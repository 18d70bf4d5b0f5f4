"""Activation checkpointing of a judge: the same answers and gradients, from fewer bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_judges
import torch
import transformers as tf

from dualproc.errors import PluginError
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.types import Question

TEXTS = ("Is the line red?", "Is it dark?")


@pytest.fixture(scope="module", params=["llama", "falcon"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small LLaVA; in training mode, Falcon's blocks would apply dropout, without a layer that could be disabled."""
    torch.manual_seed(0)
    built, processor = small_judges.llava_1_5()
    if request.param == "falcon":
        built.config.text_config = tf.FalconConfig(
            vocab_size=built.config.text_config.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            hidden_dropout=0.5, attention_dropout=0.5, pad_token_id=0, tie_word_embeddings=False,
        )  # fmt: skip
        built = tf.LlavaForConditionalGeneration(built.config)
    small_judges.randomize(built)
    folder: Path = tmp_path_factory.mktemp("judge")
    built.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def judge(model: str, checkpointing: bool) -> TransformersJudge:
    return TransformersJudge(TransformersJudge.Params(model=model, device="cpu", checkpointing=checkpointing))


def two_images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def asked(judge: TransformersJudge) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Answers, their gradient with respect to the pixels, and the bytes kept for the backward pass."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = two_images().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        found = judge.answer_log_likelihoods(images, [[Question(text) for text in TEXTS]] * 2).log_likelihoods
    return found.detach(), torch.autograd.grad(found[..., 0].sum(), images)[0], sum(kept.values())


def test_answers_and_gradients_are_the_same_from_fewer_bytes(model: str) -> None:
    plain, ours = judge(model, False), judge(model, True)
    answers, gradient, kept = asked(plain)
    for _ in range(2):
        same, again, fewer = asked(ours)
        torch.testing.assert_close(same, answers)
        torch.testing.assert_close(again, gradient)
        assert fewer < 0.75 * kept


def test_generate_gives_the_same_words(model: str) -> None:
    plain, ours = (judge(model, on).generate(two_images(), TEXTS, max_new_tokens=8) for on in (False, True))
    assert ours == plain


def test_a_model_without_checkpointing_is_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model supports checkpointing if its blocks are of the class `GradientCheckpointingLayer`."""
    monkeypatch.setattr(tf.modeling_layers, "GradientCheckpointingLayer", type("AnotherLayer", (), {}))
    with pytest.raises(PluginError, match="LlavaForConditionalGeneration does not support checkpointing"):
        judge(model, True)
