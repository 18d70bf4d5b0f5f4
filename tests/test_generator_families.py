"""The same generator class with a small pipeline of every family: nothing in it knows which one it is."""

from __future__ import annotations

import copy
import importlib.util
import random
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from small_pipelines import FAMILIES, small

from dualproc import registry
from dualproc.engine import lora
from dualproc.errors import DualprocWarning, PluginError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.targets import find_targets
from dualproc.spec import Lora

PROMPTS, SEEDS = ["a cat", "a big red house on the hill"], [3, 4]
NO_LOADER = {"pixart-sigma"}
"""Families whose pipelines cannot load a LoRA themselves."""
DEAD_ENDS = ("transformer_blocks.1.",)
"""The last block's text stream leads nowhere in some families."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def plain(generator: DiffusersGenerator, *, lora_from: Path | None = None) -> torch.Tensor:
    """The image of the first prompt and seed by plain diffusers."""
    recipe = generator.recipe()
    pipe = DiffusionPipeline.from_pretrained(recipe.model, torch_dtype=torch.float32)
    pipe.scheduler = type(generator.pipe.scheduler).from_config(pipe.scheduler.config)
    if lora_from is not None and hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(str(lora_from))
    elif lora_from is not None:
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, str(lora_from))
    noise = torch.Generator().manual_seed(SEEDS[0])
    images: torch.Tensor = pipe(prompt=PROMPTS[0], **recipe.call, generator=noise, output_type="pt").images
    return images


def trained(generator: DiffusersGenerator, spec: Lora) -> list[torch.nn.Parameter]:
    return lora.attach(generator.adapter_module, spec, generator.lora_targets, seed=0)


def test_images_are_the_pipelines_own(family: str) -> None:
    generator = small(family)
    with torch.no_grad():
        ours = generator.sample(PROMPTS, SEEDS)
        again = generator.sample(PROMPTS, SEEDS)
        first = generator.sample(PROMPTS[:1], SEEDS[:1])
        other = generator.sample(PROMPTS[:1], [99])
    assert ours.images.shape == (2, 3, 32, 32)
    torch.testing.assert_close(again.images, ours.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.images, ours.images[:1], atol=1e-4, rtol=0)
    torch.testing.assert_close(first.latents, ours.latents[:1], atol=1e-3, rtol=0)
    torch.testing.assert_close(first.images, plain(generator), atol=1e-5, rtol=0)
    assert (other.images - first.images).abs().max() > 0.01


def test_the_gradient_reaches_the_lora_and_nothing_else(family: str) -> None:
    generator = small(family)
    weights = trained(generator, Lora(rank=2))
    with torch.no_grad():
        for weight in weights:
            weight += 0.01
    for seeds in (SEEDS, [5, 6], [8, 9]):
        sample = generator.sample(PROMPTS, seeds, grad=True)
        assert sample.images.shape == (2, 3, 32, 32)
        sample.images.square().mean().backward()
    assert torch.is_grad_enabled()
    reached = [weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights]
    missed = [n for n, p in generator.adapter_module.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith(DEAD_ENDS) for name in missed), missed
    assert sum(reached) > 0.7 * len(weights)
    ours = {id(weight) for weight in weights}
    for part in generator.pipeline().components.values():
        if isinstance(part, torch.nn.Module):
            assert all(p.grad is None for p in part.parameters() if id(p) not in ours)


def test_the_base_denoises_latents_of_images(family: str) -> None:
    generator = small(family)
    with torch.no_grad():
        latents = generator.sample(PROMPTS, SEEDS).latents
    state = torch.get_rng_state()
    again = generator.denoise(latents, 0.3, PROMPTS, SEEDS)
    assert again.shape == latents.shape
    assert again.isfinite().all()
    assert torch.equal(again, generator.denoise(latents, 0.3, PROMPTS, SEEDS))
    one = generator.denoise(latents[1:], 0.3, PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(one, again[1:], atol=1e-3, rtol=1e-3)
    assert (generator.denoise(latents + 1, 0.3, PROMPTS, SEEDS) - again).abs().max() > 0.1  # it does depend on them
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(PluginError, match="cannot denoise"):
        generator.denoise(latents[:, :1], 0.3, PROMPTS, SEEDS)


def test_a_lora_is_trained_and_plain_diffusers_draws_the_same_with_it(family: str, tmp_path: Path) -> None:
    spec = Lora(rank=2, strength=3.0)
    generator = small(family)
    weights = trained(generator, spec)
    generator.prepare(PROMPTS)
    optimiser = torch.optim.AdamW(weights, lr=0.01)
    bright = []
    for _ in range(3):
        sample = generator.sample(PROMPTS, [5, 6], grad=True)
        bright.append(sample.images.mean())
        optimiser.zero_grad()
        (-bright[-1]).backward()
        optimiser.step()
    assert bright[2] > bright[0]
    generator.save_lora(tmp_path, lora.folded(generator.adapter_module, spec))
    with torch.no_grad():
        ours = generator.sample(PROMPTS[:1], SEEDS[:1]).images
        base = generator.sample(PROMPTS[:1], SEEDS[:1], base=True).images
    assert (ours - base).abs().max() > 1e-3
    assert (plain(generator, lora_from=tmp_path) - ours).abs().max() <= 1e-4
    assert hasattr(generator.pipe, "load_lora_weights") is (family not in NO_LOADER)

    again = small(family)
    trained(again, spec)
    lora.load_export(again.adapter_module, spec, tmp_path / "pytorch_lora_weights.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again.sample(PROMPTS[:1], SEEDS[:1]).images, ours, atol=1e-4, rtol=0)


def test_targets_are_found_and_contain_those_of_the_preset(family: str) -> None:
    module = small(family).adapter_module

    def layers(targets: Sequence[str]) -> set[str]:
        copied = copy.deepcopy(module)
        lora.attach(copied, Lora(rank=2), targets, seed=0)
        return {name for name, part in copied.named_modules() if isinstance(part, LoraLayer)}

    found = find_targets(module)
    wanted = registry.load("generators", FAMILIES[family].preset).params({}).lora_targets
    assert wanted is not None
    assert layers(wanted) <= layers(found)
    for target in wanted:  # every one of them names something
        assert layers([target])
    linear = {name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
    left = linear - layers(found)
    attention = {name for name in linear if name.endswith(("to_q", "to_k", "to_v", "to_out.0", "ff.net.2"))}
    assert not attention & left
    words = ("norm", "modulation", "mod.", "embed", "time")
    assert not [name for name in layers(found) if any(word in name for word in words)]


def test_prompts_are_encoded_once_and_the_text_encoders_freed(family: str) -> None:
    generator = small(family)
    names = [name for name in generator.pipe.components if name.startswith("text_encoder")]
    encoders = {name: weakref.ref(getattr(generator.pipe, name)) for name in names}
    with torch.no_grad():
        kept = small(family, keep_text_encoders=True)
        kept.prompts = None  # the pipeline's own way
        wanted = [kept.sample(batch, SEEDS).images for batch in (PROMPTS, PROMPTS[::-1])]
        with warnings.catch_warnings():
            warnings.simplefilter("error", DualprocWarning)
            generator.prepare([*PROMPTS, "a dog"])
        assert names
        assert all(ref() is None for ref in encoders.values())
        assert all(getattr(generator.pipe, name) is None for name in names)
        for batch, images in zip((PROMPTS, PROMPTS[::-1]), wanted, strict=True):
            torch.testing.assert_close(generator.sample(batch, SEEDS).images, images, atol=1e-4, rtol=0)
        latents = generator.sample(["a dog", PROMPTS[1]], SEEDS).latents
        generator.denoise(latents, 0.3, ["a dog", PROMPTS[1]], SEEDS)
        assert set(generator.encoders.released) == set(names)

        new = ["a red cat", PROMPTS[1]]
        torch.testing.assert_close(
            generator.sample(new, SEEDS).images, kept.sample(new, SEEDS).images, atol=1e-4, rtol=0
        )
        assert not generator.encoders.released
        assert generator.prompts is not None
        assert generator.prompts.joins
        generator.prepare(PROMPTS)
        pipe = generator.pipeline()
        assert all(getattr(pipe, name) is not None for name in names)
        torch.testing.assert_close(plain(generator), wanted[0][:1], atol=1e-4, rtol=0)
        noise = torch.Generator().manual_seed(SEEDS[0])
        own = pipe(prompt=PROMPTS[0], **generator.recipe().call, generator=noise, output_type="pt").images
        torch.testing.assert_close(own, wanted[0][:1], atol=1e-4, rtol=0)
        assert "encode_prompt" not in pipe.__dict__


def test_half_precision_trains_too(family: str) -> None:
    generator = small(family, dtype="bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DualprocWarning)
        generator.prepare([*PROMPTS, "a dog"])
    weights = trained(generator, Lora(rank=2))
    sample = generator.sample(PROMPTS, SEEDS, grad=True)
    sample.images.mean().backward()
    assert sample.images.dtype == sample.latents.dtype == torch.float32
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    assert generator.denoise(sample.latents, 0.3, PROMPTS, SEEDS).isfinite().all()
    assert generator.encoders.released


def test_a_batch_that_is_not_made_of_its_prompts_is_encoded_by_the_pipeline() -> None:
    """A pipeline that centres its embeddings over the batch cannot be cached; images stay its own."""
    generator = small("sd")
    encode = generator.pipe.encode_prompt

    def centred(*args: Any, **kwargs: Any) -> Any:
        rows, negative = encode(*args, **kwargs)
        return rows - rows.mean(0, keepdim=True) / 2, negative

    assert generator.prompts is not None
    generator.prompts._encode = centred
    with pytest.warns(DualprocWarning, match="encoding of a batch is another"):
        generator.prepare(PROMPTS)
    assert not generator.encoders.released
    with torch.no_grad():
        ours = generator.sample(PROMPTS, SEEDS).images
        generator.prompts = None
        generator.pipe.__dict__["encode_prompt"] = centred
        assert torch.equal(ours, generator.sample(PROMPTS, SEEDS).images)


def test_a_mask_that_only_uneven_batches_have_is_learnt_when_the_first_comes() -> None:
    generator, own = small("qwen-image"), small("qwen-image")
    own.prompts = None
    generator.prepare(["a cat", "a dog"])  # equally long: the pipeline returns no mask
    with torch.no_grad():
        generator.sample(PROMPTS[1:], SEEDS[1:])
        for _ in range(2):
            ours, theirs = (g.sample(PROMPTS, SEEDS).images for g in (generator, own))
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert generator.prompts is not None
    assert generator.prompts.holds


@pytest.mark.parametrize(
    ("family", "scheduler", "evaluations"),
    [
        ("sd", "HeunDiscreteScheduler", 5), ("sd", "KDPM2DiscreteScheduler", 5),
        ("sd3", "FlowMatchHeunDiscreteScheduler", 5), ("sd", "EulerDiscreteScheduler", 3), ("sd3", None, 3),
    ],
)  # fmt: skip
def test_every_evaluation_of_the_backbone_is_trained_in_its_turn(
    family: str, scheduler: str | None, evaluations: int
) -> None:
    """Schedulers of second order evaluate it more often than there are steps."""
    generator = small(family, steps=3, scheduler=scheduler)
    trained(generator, Lora(rank=2))
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    generator.adapter_module.register_forward_pre_hook(counted)
    seeds: dict[int, int] = {}
    for seed in range(30):
        count = 0
        generator.sample(["a cat"], [seed], grad=True)
        seeds[count] = seed
        assert count == 1 + random.Random(seed).randrange(evaluations)
    assert sorted(seeds) == list(range(1, evaluations + 1))
    last = seeds[evaluations]
    with_gradient = generator.sample(["a cat"], [last], grad=True).images
    torch.testing.assert_close(with_gradient.detach(), generator.sample(["a cat"], [last]).images, atol=1e-4, rtol=0)
    with_gradient.sum().backward()
    grads = [weight.grad for weight in generator.adapter_module.parameters() if weight.grad is not None]
    assert any(grad.abs().sum() > 0 for grad in grads)


def test_an_unknown_scheduler_is_named() -> None:
    with pytest.raises(PluginError, match="no scheduler class 'DDMIScheduler'"):
        small("sd", scheduler="DDMIScheduler")


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="what is missing is there")
def test_a_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "KolorsPipeline"}', encoding="utf-8")
    with pytest.raises(PluginError, match=r"KolorsPipeline needs sentencepiece[\s\S]*pip install sentencepiece"):
        DiffusersGenerator(DiffusersGenerator.Params(model=str(tmp_path)))


def test_a_backbone_without_repeated_blocks_says_so() -> None:
    with pytest.raises(PluginError, match="found no linear layers in repeated blocks of Linear"):
        find_targets(torch.nn.Linear(2, 2))
