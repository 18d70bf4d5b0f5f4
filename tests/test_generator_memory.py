"""Options of the generator that save memory: the same images and gradients, from fewer bytes."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from small_pipelines import small
from torch.utils.checkpoint import checkpoint as recompute

from dualproc.engine import lora
from dualproc.errors import PluginError
from dualproc.kit.weights import freeze
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.spec import Lora

PROMPTS, SEEDS = ["a cat", "a big red house on the hill"], [3, 4]


def gradient(generator: DiffusersGenerator) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """The images of a training sample, the LoRA's gradient, and the bytes kept for the backward pass."""
    weights = lora.attach(generator.adapter_module, Lora(rank=2), generator.lora_targets, seed=0)
    with torch.no_grad():
        for weight in weights:
            weight += 0.02
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in generator.adapter_module.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        images = generator.sample(PROMPTS, SEEDS, grad=True).images
        loss = images.square().mean()
    loss.backward()
    named = generator.adapter_module.named_parameters()
    grads = {name: p.grad for name, p in named if p.requires_grad and p.grad is not None}
    return images.detach(), grads, sum(kept.values())


@pytest.mark.parametrize("family", ["flux", "sd", "sd3", "sana", "z-image", "qwen-image"])
def test_checkpointing_has_the_same_gradient_from_fewer_bytes(family: str) -> None:
    images, grads, kept = gradient(small(family))
    same, again, fewer = gradient(small(family, checkpointing=True))
    torch.testing.assert_close(same, images, atol=1e-5, rtol=0)
    assert again.keys() == grads.keys()
    for name, value in grads.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-3)
    assert fewer < 0.75 * kept  # Qwen-Image saves least, because its VAE does not support it


@pytest.fixture
def tiny_vae(tmp_path: Path) -> Path:
    """A small AutoencoderTiny with a scale of 2, like the VAEs of the small pipelines."""
    torch.manual_seed(0)
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), latent_channels=4,
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    ).save_pretrained(tmp_path)  # fmt: skip
    return tmp_path


@pytest.mark.parametrize("family", ["flux", "sdxl", "sana"])
def test_a_reward_vae_decodes_in_training_only(family: str, tiny_vae: Path) -> None:
    def first(images: torch.Tensor) -> torch.Tensor:
        return images.detach()

    usual, other = small(family), small(family, reward_vae=str(tiny_vae))
    with torch.no_grad():
        torch.testing.assert_close(
            other.sample(PROMPTS, SEEDS).images, usual.sample(PROMPTS, SEEDS).images, atol=1e-5, rtol=0
        )
    ours, theirs = other.sample(PROMPTS, SEEDS, grad=True), usual.sample(PROMPTS, SEEDS, grad=True)
    torch.testing.assert_close(ours.latents, theirs.latents, atol=1e-4, rtol=0)
    assert ours.images.shape == theirs.images.shape
    assert (first(ours.images) - first(theirs.images)).abs().max() > 0.01
    config = AutoencoderTiny.from_pretrained(tiny_vae)
    if family == "sdxl":  # its latents are not packed, so the VAE can decode them directly
        with torch.no_grad():
            decoded = config.decode(ours.latents / config.config.scaling_factor).sample
        torch.testing.assert_close(first(ours.images), (decoded / 2 + 0.5).clamp(0, 1), atol=1e-4, rtol=0)
    _, grads, kept = gradient(other)
    assert any(value.abs().sum() > 0 for value in grads.values())
    assert kept < gradient(usual)[2]


@pytest.mark.parametrize("family", ["flux2-klein", "qwen-image", "lumina2"])
def test_a_reward_vae_of_other_latents_is_refused(family: str, tiny_vae: Path) -> None:
    with pytest.raises(PluginError, match=r"the reward_vae .* does not match"):
        small(family, reward_vae=str(tiny_vae))


def test_a_missing_reward_vae_is_named() -> None:
    with pytest.raises(PluginError, match="cannot load the reward_vae '/no/such'"):
        small("sd", reward_vae="/no/such")


@pytest.mark.parametrize("family", ["flux", "sd", "sana"])
def test_all_memory_options_together_have_the_same_gradient(family: str, tiny_vae: Path) -> None:
    generator = small(family, checkpointing=True, reward_vae=str(tiny_vae))
    generator.prepare(PROMPTS)
    assert generator.encoders.released
    _, plain, _ = gradient(small(family, reward_vae=str(tiny_vae)))
    _, grads, _ = gradient(generator)
    for name, value in plain.items():
        torch.testing.assert_close(grads[name], value, atol=1e-6, rtol=1e-3)


def test_an_unreferenced_generator_is_released_at_once() -> None:
    """It has no reference cycles, so its memory does not have to wait for the garbage collector."""
    generator = small("sd")
    with torch.no_grad():
        generator.sample(PROMPTS, SEEDS)
    module = weakref.ref(generator.adapter_module)
    gc.disable()
    try:
        del generator
        assert module() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_quantizing_without_its_requirements_is_refused(kind: str) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(PluginError, match=r"needs the package bitsandbytes[\s\S]*pip install 'dualproc\[quant\]'"):
            small("flux", quantize=kind)
    elif not torch.cuda.is_available():
        with pytest.raises(PluginError, match="needs a CUDA GPU"):
            small("flux", quantize=kind)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="diffusers quantises only on a GPU")
def test_a_quantized_backbone_trains(kind: str) -> None:
    pytest.importorskip("bitsandbytes")
    generator = small("flux", quantize=kind, dtype="bfloat16")
    generator.prepare(PROMPTS)
    _, grads, _ = gradient(generator)
    assert any(value.abs().sum() > 0 for value in grads.values())
    generator.pipeline()


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_a_lora_on_quantized_layers_has_a_gradient(kind: str) -> None:
    """Quantises the layers by hand, because diffusers needs a GPU for it; bitsandbytes' layers also run on a CPU."""
    bnb = pytest.importorskip("bitsandbytes")
    generator = small("flux")
    module = generator.adapter_module
    with torch.no_grad():
        before = generator.sample(PROMPTS, SEEDS).images
    for target, layer in list(module.named_modules()):
        if isinstance(layer, torch.nn.Linear) and "transformer_blocks" in target:
            shape: Any = (layer.in_features, layer.out_features)
            made = (
                bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
                if kind == "8bit"
                else bnb.nn.Linear4bit(*shape, compute_dtype=torch.float32, quant_type="nf4")
            )
            made.load_state_dict(layer.state_dict())
            owner, _, name = target.rpartition(".")
            setattr(module.get_submodule(owner), name, made.to("cpu").requires_grad_(False))
    setattr(module, f"is_loaded_in_{kind}", True)
    assert len(generator.lora_targets) > 10
    with torch.no_grad():
        after = generator.sample(PROMPTS, SEEDS).images
    assert 0 < (after - before).abs().max() < 0.1
    _, grads, _ = gradient(generator)
    assert len(grads) == 68
    assert all(value.isfinite().all() for value in grads.values())
    assert sum(bool(value.abs().sum() > 0) for value in grads.values()) > 60


@pytest.mark.parametrize("checkpointing", [False, True])
def test_8_bit_layers_keep_no_inputs_for_the_backward_pass(checkpointing: bool) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    layers = [bnb.nn.Linear8bitLt(32, 32, has_fp16_weights=False).to("cpu") for _ in range(3)]
    model = torch.nn.Sequential(*layers)
    freeze(model)
    inputs: list[Any] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(weakref.ref(given[0].untyped_storage())))

    def forward(image: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = model(image + 0).sum()  # a sum, which nothing else holds
        return result

    image = torch.randn(2, 3, 5, 32, requires_grad=True)  # Mllama has inputs of four dimensions
    loss = recompute(forward, image, use_reentrant=False) if checkpointing else forward(image)
    assert [each() for each in inputs] == [None] * 3
    loss.backward()
    assert image.grad is not None
    expected = torch.ones_like(image)
    for layer in reversed(layers):
        expected = expected @ (layer.state.CB * layer.state.SCB[:, None] / 127)
    assert torch.allclose(image.grad, expected, rtol=1e-2, atol=1e-3)
