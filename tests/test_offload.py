"""Weights in main memory: the same gradient, from copies that are gone after use."""

from __future__ import annotations

import weakref
from collections import Counter
from pathlib import Path

import pytest
import small_judges
import torch
from pydantic import ValidationError
from small_models import trained
from small_pipelines import small

from dualproc.engine import lora
from dualproc.kit import offload
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.plugins.judges.presets import TINY as JUDGE
from dualproc.plugins.judges.transformers import TransformersJudge
from dualproc.spec import Lora
from dualproc.types import Question


def learner(**changes: object) -> tuple[DiffusersGenerator, list[torch.nn.Parameter]]:
    """The shipped generator, with a LoRA that changes the images."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**{**TINY.params, **changes}))
    return generator, trained(generator, Lora(rank=4))


def gradient(generator: DiffusersGenerator, weights: list[torch.nn.Parameter], *, poison: bool = False) -> torch.Tensor:
    sample = generator.sample(["a cartoon of a cat"], [1], grad=True)
    if poison:  # what the backward pass reads must be copies
        with torch.no_grad():
            for part in (generator.adapter_module, generator.pipe.vae):
                for weight in part.parameters():
                    if not weight.requires_grad:
                        weight.fill_(torch.nan)
    sample.images.square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in weights if weight.grad is not None])


@pytest.fixture(scope="module")
def plain() -> torch.Tensor:
    return gradient(*learner())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_generator_learns_the_same(plain: torch.Tensor, checkpointing: bool) -> None:
    torch.testing.assert_close(gradient(*learner(offload=True, checkpointing=checkpointing)), plain)


def test_the_backward_pass_reads_the_copies(plain: torch.Tensor) -> None:
    """On a GPU, the weights themselves would be on another device."""
    torch.testing.assert_close(gradient(*learner(offload=True), poison=True), plain)


def test_with_checkpointing_few_copies_are_alive_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = 0, 0
    arrive = offload._Guest.arrive

    def gone(count: int) -> None:
        nonlocal alive
        alive -= count

    def counted(self: offload._Guest) -> None:
        nonlocal alive, most
        arrive(self)
        for name in self.names:
            copy = self.layer._parameters[name]
            assert copy is not None
            alive += copy.numel()
            weakref.finalize(copy, gone, copy.numel())
        most = max(most, alive)

    monkeypatch.setattr(offload._Guest, "arrive", counted)
    peaks = []
    for checkpointing in (False, True):
        alive = most = 0
        gradient(*learner(offload=True, checkpointing=checkpointing))
        peaks.append(most)
        assert alive == 0
    assert peaks[1] < 0.5 * peaks[0]


def test_a_judge_says_the_same() -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    asked = [[Question("Is this a drawing of a cat?"), Question("Is the sky blue?")]] * 2
    found = []
    for offloaded in (False, True):
        judge = TransformersJudge(TransformersJudge.Params(**{**JUDGE.params, "offload": offloaded}))
        answers = judge.answer_log_likelihoods(images, asked).log_likelihoods
        found.append((answers.detach(), *torch.autograd.grad(answers[..., 0].sum(), images)))
    torch.testing.assert_close(found[0], found[1])


def test_blocks_with_weights_of_their_own_have_copies_when_they_are_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as InternVL's; on a GPU, the weights themselves would be on another device."""
    model = str(small_judges.save("internvl3", tmp_path))
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    arrive, arrivals = offload._Guest.arrive, Counter[str]()

    def counted(self: offload._Guest) -> None:
        arrivals.update(["a block"] if "lambda_1" in self.names else ())
        arrive(self)

    monkeypatch.setattr(offload._Guest, "arrive", counted)
    found = []
    for switches in (False, True):
        judge = TransformersJudge(
            TransformersJudge.Params(model=model, device="cpu", offload=switches, checkpointing=switches)
        )
        arrivals.clear()
        answers = judge.answer_log_likelihoods(images, [[Question("Is it dark?")]]).log_likelihoods
        forward = arrivals.total()
        found.append((answers.detach(), *torch.autograd.grad(answers[..., 0].sum(), images)))
    assert forward > 0
    assert arrivals.total() == 2 * forward
    torch.testing.assert_close(found[0], found[1])


def test_everything_that_computes_is_on_the_device() -> None:
    """Another device than the weights' own: `meta`, the only other one that every machine has."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    calls: list[dict[str, object]] = []
    hook = generator.adapter_module.register_forward_pre_hook(
        lambda _module, _args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    generator.sample(["a cartoon of a cat"], [1])
    hook.remove()
    there = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in calls[0].items()}
    offload.offload(generator.adapter_module, torch.device("meta"))
    trained(generator, Lora(rank=4))
    made = generator.adapter_module(**there)[0]
    made.sum().backward()
    for weight in generator.adapter_module.parameters():
        assert weight.device.type == ("meta" if weight.requires_grad else "cpu")
        assert (weight.grad is not None) == weight.requires_grad


def test_the_moments_of_a_checkpoint_are_where_the_lora_computes() -> None:
    """A checkpoint is read into main memory; `meta` is the other device that every machine has."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    offload.offload(generator.adapter_module, torch.device("meta"))
    weights = lora.attach(generator.adapter_module, Lora(rank=4), generator.lora_targets, seed=0)
    optimiser = torch.optim.AdamW(weights)
    kept = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(1), "exp_avg_sq": torch.zeros(1)}
    optimiser.load_state_dict({**optimiser.state_dict(), "state": dict.fromkeys(range(len(weights)), kept)})
    for weight in weights:
        assert weight.is_meta
        assert optimiser.state[weight]["exp_avg"].is_meta


def test_text_encoders_that_come_back_are_offloaded_too() -> None:
    generator = small("sd3", offload=True)

    def hooks() -> dict[str, int]:
        parts = {name: part for name, part in generator.pipe.components.items() if name.startswith("text_encoder")}
        assert all(part._hf_hook.execution_device == generator.device for part in parts.values())
        return {name: sum("forward" in vars(layer) for layer in part.modules()) for name, part in parts.items()}

    before = hooks()
    assert len(before) == 3
    assert all(before.values())
    generator.prepare(["a cat"])
    assert generator.encoders.released
    generator.pipeline()
    assert hooks() == before


@pytest.mark.parametrize("plugin", [DiffusersGenerator, TransformersJudge])
@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_quantised_weights_are_not_offloaded(plugin: type[DiffusersGenerator | TransformersJudge], bits: str) -> None:
    with pytest.raises(ValidationError, match="`offload` and `quantize` cannot be set together"):
        plugin.Params.model_validate({"model": "any", "offload": True, "quantize": bits})
    plugin.Params.model_validate({"model": "any", "quantize": bits})
