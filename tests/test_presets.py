"""The presets of models that are too large to be here: what specs make of them, and where their LoRA goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer

from dualproc import registry
from dualproc.engine import lora
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import FLUX_SCHNELL, TINY
from dualproc.spec import Lora

SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"
LARGE = ["--set", "generator.type=flux-schnell", "--set", "judge.type=qwen2.5-vl"]


@pytest.mark.parametrize("command", [["check"], ["show", "--variant", "thick"]])
def test_a_spec_takes_the_presets_without_loading_torch(command: list[str]) -> None:
    arguments = ["spec", *command, str(SPEC), *LARGE]
    code = (
        f"import sys; from dualproc.cli import app; app({arguments!r}, standalone_mode=False)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "flux-schnell" in shown
    assert "qwen2.5-vl" in shown


def test_the_presets_are_those_of_the_paper() -> None:
    generator = registry.load("generators", "flux-schnell").params({})
    assert (generator.height, generator.width, generator.steps, generator.guidance) == (512, 512, 1, 0)
    assert (generator.dtype, generator.call) == ("bfloat16", {"max_sequence_length": 256})
    assert registry.load("judges", "qwen2.5-vl").params({"dtype": "float16"}).dtype == "float16"


@pytest.fixture
def flux() -> FluxTransformer2DModel:
    """A small one of two double-stream and two single-stream blocks."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def taught_layers(module: torch.nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if isinstance(part, LoraLayer)}


def test_the_lora_of_flux_goes_to_the_projections_of_the_double_stream_blocks(flux: FluxTransformer2DModel) -> None:
    linear = {name for name, part in flux.named_modules() if isinstance(part, torch.nn.Linear)}
    double = {name for name in linear if name.startswith("transformer_blocks.") and ".norm" not in name}
    assert len(double) == 2 * 12
    lora.attach(flux, Lora(rank=2), FLUX_SCHNELL.params["lora_targets"], seed=0)
    assert taught_layers(flux) == double


def test_a_target_is_an_ending_that_begins_where_a_part_of_a_name_begins(flux: FluxTransformer2DModel) -> None:
    lora.attach(flux, Lora(rank=2), ["1.attn.to_q", "net.*.proj", "embedder"], seed=0)
    blocks = {"transformer_blocks.1.attn.to_q", "single_transformer_blocks.1.attn.to_q"}
    forward = {f"transformer_blocks.{n}.{part}.net.0.proj" for n in (0, 1) for part in ("ff", "ff_context")}
    assert taught_layers(flux) == blocks | forward


def test_weights_of_half_precision_teach_a_lora_of_full_precision() -> None:
    generator = DiffusersGenerator(DiffusersGenerator.Params(**{**TINY.params, "dtype": "bfloat16"}))
    weights = lora.attach(generator.adapter_module, Lora(rank=2), generator.lora_targets, seed=0)
    sample = generator.sample(["a cartoon of a cat"], [1], grad=True)
    assert sample.images.dtype == sample.latents.dtype == torch.float32
    sample.images.mean().backward()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    assert generator.denoise(sample.latents, 0.3, ["a cartoon of a cat"], [1]).isfinite().all()
