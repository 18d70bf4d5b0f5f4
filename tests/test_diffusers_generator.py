"""The diffusers generator: the unmodified pipeline, with gradient."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from small_models import stable_diffusion, trained

from dualproc.engine import lora
from dualproc.errors import DualprocError, DualprocWarning, PluginError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.spec import Lora

PROMPTS, SEEDS = ["a cartoon of a cat", "a cartoon of an owl"], [3, 4]


def tiny(**changes: Any) -> DiffusersGenerator:
    return DiffusersGenerator(DiffusersGenerator.Params(**{**TINY.params, **changes}))


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> DiffusersGenerator:
    folder = stable_diffusion(tmp_path_factory.mktemp("sd"))
    params = DiffusersGenerator.Params(model=str(folder), height=32, width=32, steps=4, guidance=3.0)
    return DiffusersGenerator(params)


def test_images_are_the_pipelines_own() -> None:
    generator = tiny()
    ours = generator.sample(PROMPTS, SEEDS).images
    pipe = DiffusionPipeline.from_pretrained(TINY.params["model"], torch_dtype=torch.float32)
    noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    plain = pipe(
        PROMPTS, height=64, width=64, num_inference_steps=1, guidance_scale=0.0, max_sequence_length=14,
        generator=noise, output_type="pt",
    ).images  # fmt: skip
    assert ours.shape == (2, 3, 64, 64)
    assert torch.equal(ours, plain.cpu())


def test_one_of_a_batch_is_the_image_alone() -> None:
    generator = tiny()
    together, alone = generator.sample(PROMPTS, SEEDS), generator.sample(PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(together.images[1:], alone.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.latents[1:], alone.latents, atol=1e-4, rtol=0)


def test_gradient_reaches_the_lora_and_nothing_else() -> None:
    generator = tiny()
    weights = trained(generator, Lora())
    sample = generator.sample(PROMPTS, SEEDS, grad=True)
    sample.images.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    ours = {id(weight) for weight in weights}
    for part in generator.pipeline().components.values():
        if isinstance(part, torch.nn.Module):
            assert all(p.grad is None for p in part.parameters() if id(p) not in ours)


def test_training_samples_equal_the_images_people_get() -> None:
    generator = tiny()
    trained(generator, Lora())
    with_gradient = generator.sample(PROMPTS, SEEDS, grad=True).images
    torch.testing.assert_close(with_gradient.detach(), generator.sample(PROMPTS, SEEDS).images, atol=1e-6, rtol=0)


def test_base_is_the_generator_without_the_lora() -> None:
    untouched = tiny().sample(PROMPTS, SEEDS).images
    generator = tiny()
    trained(generator, Lora())
    assert (generator.sample(PROMPTS, SEEDS).images - untouched).abs().max() > 0.01
    assert torch.equal(generator.sample(PROMPTS, SEEDS, base=True).images, untouched)


def test_plain_diffusers_loads_the_lora_to_the_same_images(tmp_path: Path) -> None:
    spec = Lora(rank=4, alpha=8.0, strength=5.0)
    generator = tiny()
    trained(generator, spec)
    generator.save_lora(tmp_path, lora.folded(generator.adapter_module, spec))
    pipe = DiffusionPipeline.from_pretrained(TINY.params["model"], torch_dtype=torch.float32)
    pipe.load_lora_weights(str(tmp_path))
    noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    plain = pipe(
        PROMPTS, height=64, width=64, num_inference_steps=1, guidance_scale=0.0, max_sequence_length=14,
        generator=noise, output_type="pt",
    ).images  # fmt: skip
    ours = generator.sample(PROMPTS, SEEDS).images
    assert (ours - generator.sample(PROMPTS, SEEDS, base=True).images).abs().max() > 0.01
    assert (ours - plain).abs().max() <= 1e-4


def test_export_is_read_back_at_any_strength(tmp_path: Path) -> None:
    spec = Lora(rank=4)
    generator = tiny()
    trained(generator, spec)
    generator.save_lora(tmp_path, lora.folded(generator.adapter_module, spec))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    again = tiny()
    lora.attach(again.adapter_module, spec, again.lora_targets, seed=9)
    lora.load_export(again.adapter_module, spec, file)
    wanted = generator.sample(PROMPTS, SEEDS).images
    torch.testing.assert_close(again.sample(PROMPTS, SEEDS).images, wanted, atol=1e-5, rtol=0)
    lora.load_export(again.adapter_module, spec, file, strength=0.0)
    torch.testing.assert_close(again.sample(PROMPTS, SEEDS).images, tiny().sample(PROMPTS, SEEDS).images)


def test_denoise_recovers_what_the_base_finds_likely() -> None:
    generator = tiny()
    latents = generator.sample(PROMPTS, SEEDS).latents
    again = generator.denoise(latents, 0.3, PROMPTS, SEEDS)
    assert torch.equal(again, generator.denoise(latents, 0.3, PROMPTS, SEEDS))
    strange = latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    off = (generator.denoise(strange, 0.3, PROMPTS, SEEDS) - strange).square().mean()
    assert (again - latents).square().mean() < 0.3 * off


def test_pixels_outside_the_range_still_have_a_gradient() -> None:
    from dualproc.plugins.generators.overrides import StraightThrough

    generator = tiny()
    decoded = torch.tensor([[[[-3.0, 0.0, 3.0]]]], requires_grad=True)
    shown = StraightThrough(generator.pipeline().image_processor).postprocess(decoded, output_type="pt")
    assert shown.flatten().tolist() == [0.0, 0.5, 1.0]
    shown.sum().backward()
    assert decoded.grad is not None
    assert decoded.grad.flatten().tolist() == [0.5, 0.5, 0.5]


def test_a_unet_with_guidance_and_ddim_learns_too(unet: DiffusersGenerator) -> None:
    weights = lora.attach(unet.adapter_module, Lora(rank=2), unet.lora_targets, seed=0)
    seeds = [next(s for s in range(99) if random.Random(s).randrange(4) == last) for last in (0, 3)]
    for seed in seeds:  # the first and the last of four steps
        sample = unet.sample(["a cat"], [seed], grad=True)
        sample.images.mean().backward()
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
        for weight in weights:
            weight.grad = None
    assert torch.is_grad_enabled()
    again = unet.denoise(sample.latents, 0.3, ["a cat"], seeds[1:])
    assert again.shape == sample.latents.shape
    assert again.isfinite().all()


def test_words_that_the_generator_does_not_know_are_named() -> None:
    with pytest.warns(DualprocWarning, match="has no word for: astronaut, unicycle"):
        tiny().prepare(["a cartoon of an astronaut", "a cartoon of a cat on a unicycle"])


def test_a_missing_model_is_named() -> None:
    with pytest.raises(PluginError, match="cannot load the generator '/no/such/folder'"):
        tiny(model="/no/such/folder")


def test_targets_that_name_no_layer_are_refused() -> None:
    generator = tiny()
    with pytest.raises(DualprocError, match=r"nonsense name no layer of FluxTransformer2DModel[\s\S]*to_q"):
        lora.attach(generator.adapter_module, Lora(), ["nonsense"], seed=0)
