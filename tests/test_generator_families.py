"""The generator `diffusers` with a small pipeline of every family; the same code drives all of them."""

from __future__ import annotations

import copy
import functools
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from small_pipelines import FAMILIES, small

from dualproc import registry
from dualproc.engine import lora
from dualproc.errors import DualprocWarning, PluginError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.prompts import PromptCache
from dualproc.plugins.generators.targets import find_targets
from dualproc.spec import Lora

PROMPTS, SEEDS = ["a cat", "a big red house on the hill"], [3, 4]
NO_LOADER = {"pixart-sigma"}
"""Families whose pipelines have no LoRA loader."""
DEAD_ENDS = ("transformer_blocks.1.",)
"""The text stream of the last block, which some families do not use."""


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def plain(
    generator: DiffusersGenerator,
    prompts: Sequence[str] = PROMPTS[:1],
    seeds: Sequence[int] = SEEDS[:1],
    *,
    lora_from: Path | None = None,
) -> torch.Tensor:
    """The images that plain diffusers draws with the generator's recipe, in one batch."""
    recipe = generator.recipe()
    pipe = DiffusionPipeline.from_pretrained(recipe.model, dtype=torch.float32)
    pipe.scheduler = type(generator.pipe.scheduler).from_config(pipe.scheduler.config)
    if lora_from is not None and hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(str(lora_from))
    elif lora_from is not None:
        pipe.transformer = PeftModel.from_pretrained(pipe.transformer, str(lora_from))
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    call = {**recipe.call, "prompt": list(prompts), "generator": noise, "output_type": "pt"}
    if isinstance(call.get("negative_prompt"), str):
        call["negative_prompt"] = [call["negative_prompt"]] * len(prompts)
    images: torch.Tensor = pipe(**call).images
    return images


def text_encoders(pipe: Any) -> dict[str, Any]:
    """A pipeline's text encoders, by component name; None if released."""
    return {name: getattr(pipe, name) for name in pipe.components if name.startswith("text_encoder")}


def attach_lora(generator: DiffusersGenerator, spec: Lora) -> list[torch.nn.Parameter]:
    return lora.attach(generator.adapter_module, spec, generator.lora_targets, seed=0)


def test_images_equal_those_of_the_plain_pipeline(family: str) -> None:
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


def test_negative_seed_starts_from_the_negative_noise(family: str) -> None:
    generator, starts = small(family), []

    def keep(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        starts.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    hook = generator.adapter_module.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad():
        generator.sample(PROMPTS[:1] * 2, [3, ~3])
    hook.remove()
    assert torch.equal(starts[0][1], -starts[0][0])
    assert starts[0][0].abs().max() > 0


def test_the_gradient_reaches_the_lora_and_nothing_else(family: str) -> None:
    generator = small(family)
    weights = attach_lora(generator, Lora(rank=2))
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
    assert (generator.denoise(latents + 1, 0.3, PROMPTS, SEEDS) - again).abs().max() > 0.1  # it depends on the latents
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(PluginError, match=r"starts from latents \(.*\), not from \(2, 1, "):
        generator.denoise(latents[:, :1], 0.3, PROMPTS, SEEDS)


def test_a_lora_trains_and_plain_diffusers_draws_the_same_with_it(family: str, tmp_path: Path) -> None:
    spec = Lora(rank=2, strength=3.0)
    generator = small(family)
    weights = attach_lora(generator, spec)
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
    attach_lora(again, spec)
    lora.load_export(again.adapter_module, spec, tmp_path / "pytorch_lora_weights.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(again.sample(PROMPTS[:1], SEEDS[:1]).images, ours, atol=1e-4, rtol=0)


def test_targets_are_found_automatically_and_include_those_of_the_preset(family: str) -> None:
    generator = small(family)
    module = generator.adapter_module

    def layers(targets: Sequence[str]) -> set[str]:
        copied = copy.deepcopy(module)
        lora.attach(copied, Lora(rank=2), targets, seed=0)
        return {name for name, part in copied.named_modules() if isinstance(part, LoraLayer)}

    found = generator.lora_targets
    preset = registry.load("generators", FAMILIES[family].preset).params({}).lora_targets
    assert preset is not None
    assert layers(preset) <= layers(found)
    for target in preset:  # each matches at least one layer
        assert layers([target])
    linear = {name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
    left = linear - layers(found)
    attention = {name for name in linear if name.endswith(("to_q", "to_k", "to_v", "to_out.0", "ff.net.2"))}
    assert not attention & left
    words = ("norm", "modulation", "mod.", "embed", "time")
    assert not [name for name in layers(found) if any(word in name for word in words)]


def test_prompts_are_encoded_once_and_the_text_encoders_released(family: str) -> None:
    generator = small(family)
    names = set(text_encoders(generator.pipe))
    encoders = [weakref.ref(encoder) for encoder in text_encoders(generator.pipe).values()]
    assert names
    with torch.no_grad():
        expected = [plain(generator, batch, SEEDS) for batch in (PROMPTS, PROMPTS[::-1])]
        with warnings.catch_warnings():
            warnings.simplefilter("error", DualprocWarning)
            generator.prepare([*PROMPTS, "a dog"])
        assert all(encoder() is None for encoder in encoders)
        assert text_encoders(generator.pipe) == dict.fromkeys(names)
        for batch, images in zip((PROMPTS, PROMPTS[::-1]), expected, strict=True):
            torch.testing.assert_close(generator.sample(batch, SEEDS).images, images, atol=1e-4, rtol=0)
        latents = generator.sample(["a dog", PROMPTS[1]], SEEDS).latents
        generator.denoise(latents, 0.3, ["a dog", PROMPTS[1]], SEEDS)
        assert text_encoders(generator.pipe) == dict.fromkeys(names)

        new = ["a red cat", PROMPTS[1]]
        expected_new = plain(generator, new, SEEDS)
        torch.testing.assert_close(generator.sample(new, SEEDS).images, expected_new, atol=1e-4, rtol=0)
        assert None not in text_encoders(generator.pipe).values()
        generator.prepare(PROMPTS)
        assert text_encoders(generator.pipe) == dict.fromkeys(names)  # so the cache is still in use
        pipe = generator.pipeline()
        assert None not in text_encoders(pipe).values()
        noise = torch.Generator().manual_seed(SEEDS[0])
        own = pipe(prompt=PROMPTS[0], **generator.recipe().call, generator=noise, output_type="pt").images
        torch.testing.assert_close(own, expected[0][:1], atol=1e-4, rtol=0)
        assert "encode_prompt" not in vars(pipe)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_trains(family: str, dtype: str) -> None:
    """In float16, diffusers would convert the VAE of SDXL and Kolors in every call, which breaks the backward pass."""
    generator = small(family, dtype=dtype)
    assert generator.pipe.vae.dtype == (torch.float32 if dtype == "float16" else torch.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DualprocWarning)
        generator.prepare([*PROMPTS, "a dog"])
    weights = attach_lora(generator, Lora(rank=2))
    sample = generator.sample(PROMPTS, SEEDS, grad=True)
    sample.images.mean().backward()
    assert sample.images.dtype == sample.latents.dtype == torch.float32
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    assert all(weight.grad.isfinite().all() for weight in weights if weight.grad is not None)
    assert generator.denoise(sample.latents, 0.3, PROMPTS, SEEDS).isfinite().all()
    assert set(text_encoders(generator.pipe).values()) == {None}


def test_a_pipeline_whose_batches_cannot_be_joined_encodes_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a pipeline centres its embeddings over the batch, its prompts cannot be cached; the images stay the same."""
    encode = StableDiffusionPipeline.encode_prompt

    @functools.wraps(encode)
    def centred(self: Any, *args: Any, **kwargs: Any) -> Any:
        rows, negative = encode(self, *args, **kwargs)
        return rows - rows.mean(0, keepdim=True) / 2, negative

    monkeypatch.setattr(StableDiffusionPipeline, "encode_prompt", centred)
    generator = small("sd")
    with pytest.warns(DualprocWarning, match="this pipeline encodes a batch differently from its single prompts"):
        generator.prepare(PROMPTS)
    assert None not in text_encoders(generator.pipe).values()
    with torch.no_grad():
        ours = generator.sample(PROMPTS, SEEDS).images
        torch.testing.assert_close(ours, plain(generator, PROMPTS, SEEDS), atol=1e-5, rtol=0)
        alone = generator.sample(PROMPTS[:1], SEEDS[:1]).images
    assert (ours[:1] - alone).abs().max() > 1e-3  # the batch does matter


def encoded_by_outliers(texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings that depend on the longest prompt of the batch, as in 8 bits they depend on its outliers; a mask."""
    lengths = torch.tensor([len(text) for text in texts])
    rows = torch.stack([torch.full((4, 8), float(length)) for length in lengths])
    return rows + 0.3 * lengths.max(), torch.ones(len(texts), 4, dtype=torch.long)


def test_in_8_bits_a_prompt_has_the_encoding_that_it_has_alone() -> None:
    def encode(prompt: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return encoded_by_outliers(prompt)

    cache = PromptCache(encode, lambda: None, alone=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DualprocWarning)
        for batch in (["a cat", "a big house"], ["a big house", "a cat", "a cat"]):
            rows, mask = cache(batch)
            assert torch.equal(rows, torch.cat([encoded_by_outliers([text])[0] for text in batch]))
            assert mask.shape == (len(batch), 4)
    assert cache.holds
    with pytest.warns(DualprocWarning, match="encodes a batch differently"):
        PromptCache(encode, lambda: None)(["a cat", "a big house"])


def test_the_mask_of_uneven_batches_is_learned_from_the_first_one() -> None:
    generator = small("qwen-image")
    generator.prepare(["a cat", "a dog"])  # of equal length: the pipeline returns no mask
    with torch.no_grad():
        generator.sample(PROMPTS[1:], SEEDS[1:])
        for _ in range(2):
            ours = generator.sample(PROMPTS, SEEDS).images
            torch.testing.assert_close(ours, plain(generator, PROMPTS, SEEDS), atol=1e-4, rtol=0)
        generator.prepare(PROMPTS)
    assert set(text_encoders(generator.pipe).values()) == {None}  # the cache is still in use


@pytest.mark.parametrize(
    ("family", "scheduler", "evaluations"),
    [
        ("sd", "HeunDiscreteScheduler", 5), ("sd", "KDPM2DiscreteScheduler", 5),
        ("sd3", "FlowMatchHeunDiscreteScheduler", 5), ("sd", "EulerDiscreteScheduler", 3), ("sd3", None, 3),
    ],
)  # fmt: skip
def test_any_evaluation_of_the_backbone_can_be_the_one_that_is_trained(
    family: str, scheduler: str | None, evaluations: int
) -> None:
    """Second-order schedulers evaluate the backbone more often than there are sampling steps."""
    generator = small(family, steps=3, scheduler=scheduler)
    attach_lora(generator, Lora(rank=2))
    passes: list[Any] = []
    generator.adapter_module.register_forward_hook(lambda *call: passes.append(call[-1]))
    seed_of: dict[int, int] = {}
    """The seed whose training sample ends after this evaluation."""
    for seed in range(30):
        passes.clear()
        generator.sample(["a cat"], [seed], grad=True)
        seed_of[len(passes)] = seed
    assert sorted(seed_of) == list(range(1, evaluations + 1))
    last = seed_of[evaluations]
    with_gradient = generator.sample(["a cat"], [last], grad=True).images
    torch.testing.assert_close(with_gradient.detach(), generator.sample(["a cat"], [last]).images, atol=1e-4, rtol=0)
    with_gradient.sum().backward()
    grads = [weight.grad for weight in generator.adapter_module.parameters() if weight.grad is not None]
    assert any(grad.abs().sum() > 0 for grad in grads)


def test_an_unknown_scheduler_is_named() -> None:
    with pytest.raises(PluginError, match="no scheduler class 'DDMIScheduler'"):
        small("sd", scheduler="DDMIScheduler")


def test_a_backbone_without_repeated_blocks_is_refused() -> None:
    with pytest.raises(PluginError, match="found no linear layers in repeated blocks of Linear"):
        find_targets(torch.nn.Linear(2, 2))
