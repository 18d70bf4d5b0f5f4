"""The generator `diffusers` with the shipped model: the unmodified pipeline, with gradient."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny, DiffusionPipeline, IFPipeline
from small_models import stable_diffusion, trained

from dualproc.engine import lora
from dualproc.errors import DualprocError, DualprocWarning, PluginError
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.loading import load_tiny_vae
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


def test_images_equal_those_of_the_plain_pipeline() -> None:
    generator = tiny()
    ours = generator.sample(PROMPTS, SEEDS).images
    pipe = DiffusionPipeline.from_pretrained(TINY.params["model"], dtype=torch.float32)
    noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    plain = pipe(
        PROMPTS, height=64, width=64, num_inference_steps=1, guidance_scale=0.0, max_sequence_length=14,
        generator=noise, output_type="pt",
    ).images  # fmt: skip
    assert ours.shape == (2, 3, 64, 64)
    assert torch.equal(ours, plain.cpu())


def test_the_recipe_names_the_files_that_were_loaded() -> None:
    assert tiny().recipe().source == {}
    assert tiny(revision="main").recipe().source == {"revision": "main"}


def test_a_pipeline_without_a_vae_is_refused_for_what_it_lacks(tmp_path: Path) -> None:
    parts = DiffusionPipeline.from_pretrained(stable_diffusion(tmp_path / "sd"))
    names = ("tokenizer", "text_encoder", "unet", "scheduler")
    pipe = IFPipeline(
        **{name: getattr(parts, name) for name in names}, safety_checker=None, feature_extractor=None,
        watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(tmp_path / "if")
    with pytest.raises(PluginError, match="IFPipeline has no prepare_latents"):
        DiffusersGenerator(DiffusersGenerator.Params(model=str(tmp_path / "if")))


def test_loading_uses_nothing_that_is_deprecated(unet: DiffusersGenerator, tmp_path: Path) -> None:
    AutoencoderTiny(
        encoder_block_out_channels=(4,), decoder_block_out_channels=(4,), num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    ).save_pretrained(tmp_path)  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny()
        DiffusersGenerator(unet.params)
        load_tiny_vae(str(tmp_path), torch.float32)
    assert [str(one.message) for one in caught if issubclass(one.category, FutureWarning)] == []


def test_an_image_does_not_depend_on_its_batch() -> None:
    generator = tiny()
    together, alone = generator.sample(PROMPTS, SEEDS), generator.sample(PROMPTS[1:], SEEDS[1:])
    torch.testing.assert_close(together.images[1:], alone.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(together.latents[1:], alone.latents, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("side", "decoded"), [(64, [2]), (512, [1, 1])])
def test_large_images_are_decoded_one_by_one(side: int, decoded: list[int]) -> None:
    generator = tiny(height=side, width=side)
    sizes: list[int] = []
    generator.pipe.vae.decoder.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert generator.sample(["a cat", "a dog"], [1, 2]).images.shape == (2, 3, side, side)
    assert sizes == decoded


def test_the_gradient_reaches_the_lora_and_nothing_else() -> None:
    generator = tiny()
    weights = trained(generator, Lora())
    sample = generator.sample(PROMPTS, SEEDS, grad=True)
    sample.images.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    ours = {id(weight) for weight in weights}
    for part in generator.pipeline().components.values():
        if isinstance(part, torch.nn.Module):
            assert all(p.grad is None for p in part.parameters() if id(p) not in ours)


def test_training_samples_equal_finished_images() -> None:
    generator = tiny()
    trained(generator, Lora())
    with_gradient = generator.sample(PROMPTS, SEEDS, grad=True).images
    torch.testing.assert_close(with_gradient.detach(), generator.sample(PROMPTS, SEEDS).images, atol=1e-6, rtol=0)


def test_base_images_are_those_without_the_lora() -> None:
    untouched = tiny().sample(PROMPTS, SEEDS).images
    generator = tiny()
    trained(generator, Lora())
    assert (generator.sample(PROMPTS, SEEDS).images - untouched).abs().max() > 0.01
    assert torch.equal(generator.sample(PROMPTS, SEEDS, base=True).images, untouched)


def test_plain_diffusers_draws_the_same_with_the_saved_lora(tmp_path: Path) -> None:
    spec = Lora(rank=4, alpha=8.0, strength=5.0)
    generator = tiny()
    trained(generator, spec)
    generator.save_lora(tmp_path, lora.folded(generator.adapter_module, spec))
    pipe = DiffusionPipeline.from_pretrained(TINY.params["model"], dtype=torch.float32)
    pipe.load_lora_weights(str(tmp_path))
    noise = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    plain = pipe(
        PROMPTS, height=64, width=64, num_inference_steps=1, guidance_scale=0.0, max_sequence_length=14,
        generator=noise, output_type="pt",
    ).images  # fmt: skip
    ours = generator.sample(PROMPTS, SEEDS).images
    assert (ours - generator.sample(PROMPTS, SEEDS, base=True).images).abs().max() > 0.01
    assert (ours - plain).abs().max() <= 1e-4


def test_a_saved_lora_is_loaded_at_any_strength(tmp_path: Path) -> None:
    spec = Lora(rank=4)
    generator = tiny()
    trained(generator, spec)
    generator.save_lora(tmp_path, lora.folded(generator.adapter_module, spec))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    again = tiny()
    lora.attach(again.adapter_module, spec, again.lora_targets, seed=9)
    lora.load_export(again.adapter_module, spec, file)
    expected = generator.sample(PROMPTS, SEEDS).images
    torch.testing.assert_close(again.sample(PROMPTS, SEEDS).images, expected, atol=1e-5, rtol=0)
    lora.load_export(again.adapter_module, spec, file, strength=0.0)
    torch.testing.assert_close(again.sample(PROMPTS, SEEDS).images, tiny().sample(PROMPTS, SEEDS).images)


def test_denoise_recovers_latents_that_are_likely_under_the_base() -> None:
    generator = tiny()
    latents = generator.sample(PROMPTS, SEEDS).latents
    again = generator.denoise(latents, 0.3, PROMPTS, SEEDS)
    assert torch.equal(again, generator.denoise(latents, 0.3, PROMPTS, SEEDS))
    unlikely = latents + torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    off = (generator.denoise(unlikely, 0.3, PROMPTS, SEEDS) - unlikely).square().mean()
    assert (again - latents).square().mean() < 0.3 * off


def test_pixels_outside_the_range_have_a_gradient() -> None:
    """Far outside [0, 1], images are clamped, and their gradient is that of the unclamped pixels."""
    generator = tiny()
    weights = trained(generator, Lora())
    gradients = []
    for scale in (1.0, 1000.0):
        hook = generator.pipeline().vae.decoder.register_forward_hook(lambda *call, scale=scale: scale * call[-1])
        images = generator.sample(PROMPTS, SEEDS, grad=True).images
        hook.remove()
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(images.sum() / scale, weights)]))
    assert ((images == 0) | (images == 1)).float().mean() > 0.95
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


def test_a_unet_with_guidance_and_ddim_trains(unet: DiffusersGenerator) -> None:
    weights = lora.attach(unet.adapter_module, Lora(rank=2), unet.lora_targets, seed=0)
    passes: list[object] = []
    hook = unet.adapter_module.register_forward_hook(lambda *call: passes.append(call[-1]))
    seed_of: dict[int, int] = {}
    """The seed whose training sample ends after this sampling step."""
    for seed in range(30):
        passes.clear()
        unet.sample(["a cat"], [seed], grad=True)
        seed_of[len(passes)] = seed
    hook.remove()
    assert sorted(seed_of) == [1, 2, 3, 4]
    for step in (1, 4):
        sample = unet.sample(["a cat"], [seed_of[step]], grad=True)
        sample.images.mean().backward()
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
        for weight in weights:
            weight.grad = None
    assert torch.is_grad_enabled()
    again = unet.denoise(sample.latents, 0.3, ["a cat"], [seed_of[4]])
    assert again.shape == sample.latents.shape
    assert again.isfinite().all()


def test_unknown_words_are_named() -> None:
    with pytest.warns(DualprocWarning, match="does not know the words: astronaut, unicycle"):
        tiny().prepare(["a cartoon of an astronaut", "a cartoon of a cat on a unicycle"])


def test_a_missing_model_is_named() -> None:
    with pytest.raises(PluginError, match="cannot load the generator '/no/such/folder'"):
        tiny(model="/no/such/folder")


def test_targets_that_match_no_layer_are_refused() -> None:
    generator = tiny()
    with pytest.raises(
        DualprocError, match=r"no layer of FluxTransformer2DModel matches the LoRA's targets nonsense[\s\S]*to_q"
    ):
        lora.attach(generator.adapter_module, Lora(), ["nonsense"], seed=0)
