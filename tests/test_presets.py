"""The presets of models that are too large to be here: what specs make of them, and where their LoRA goes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


LARGE_GENERATORS = [entry.name for entry in registry.entries("generators") if entry.name not in ("diffusers", "tiny")]


def test_every_large_preset_can_be_used_without_loading_torch() -> None:
    assert len(LARGE_GENERATORS) == 13
    code = (
        "import sys; from dualproc.cli import app\n"
        f"for name in {LARGE_GENERATORS!r}:\n"
        f"    app(['spec', 'check', {str(SPEC)!r}, '--set', f'generator.type={{name}}'], standalone_mode=False)\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert [name for name in LARGE_GENERATORS if f"generators/{name}," not in shown] == []


@pytest.mark.parametrize("name", LARGE_GENERATORS)
def test_a_preset_says_how_large_it_is_and_what_it_draws(name: str) -> None:
    loaded = registry.load("generators", name)
    params = loaded.params({})
    assert "B parameters" in loaded.summary
    assert f"{params.height} x {params.width} pixels" in loaded.summary
    assert re.search(rf"in {params.steps} steps|in one step" if params.steps > 1 else "in one step", loaded.summary)
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", params.model)
    assert params.dtype == "bfloat16"


def test_the_settings_are_those_of_the_models_and_of_the_paper() -> None:
    def settings(name: str) -> tuple[Any, ...]:
        params = registry.load("generators", name).params({})
        return params.steps, params.guidance, params.scheduler

    assert settings("flux-dev") == (28, 3.5, None)
    assert settings("sd1.5") == (50, 7.5, "DDIMScheduler")
    assert settings("sana") == (20, 4.5, None)
    qwen = registry.load("generators", "qwen-image").params({})
    assert (qwen.guidance, qwen.call["true_cfg_scale"], qwen.call["negative_prompt"]) == (None, 4.0, " ")


@pytest.fixture
def flux() -> FluxTransformer2DModel:
    """A small one of two double-stream and two single-stream blocks."""
    torch.manual_seed(0)
    return FluxTransformer2DModel(
        in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip


def trained_layers(module: torch.nn.Module) -> set[str]:
    return {name for name, part in module.named_modules() if isinstance(part, LoraLayer)}


def test_the_lora_of_flux_goes_to_the_projections_of_the_double_stream_blocks(flux: FluxTransformer2DModel) -> None:
    linear = {name for name, part in flux.named_modules() if isinstance(part, torch.nn.Linear)}
    double = {name for name in linear if name.startswith("transformer_blocks.") and ".norm" not in name}
    assert len(double) == 2 * 12
    lora.attach(flux, Lora(rank=2), FLUX_SCHNELL.params["lora_targets"], seed=0)
    assert trained_layers(flux) == double


def test_a_target_is_an_ending_that_begins_where_a_part_of_a_name_begins(flux: FluxTransformer2DModel) -> None:
    lora.attach(flux, Lora(rank=2), ["1.attn.to_q", "net.*.proj", "embedder"], seed=0)
    blocks = {"transformer_blocks.1.attn.to_q", "single_transformer_blocks.1.attn.to_q"}
    forward = {f"transformer_blocks.{n}.{part}.net.0.proj" for n in (0, 1) for part in ("ff", "ff_context")}
    assert trained_layers(flux) == blocks | forward


def test_weights_of_half_precision_train_a_lora_of_full_precision() -> None:
    generator = DiffusersGenerator(DiffusersGenerator.Params(**{**TINY.params, "dtype": "bfloat16"}))
    weights = lora.attach(generator.adapter_module, Lora(rank=2), generator.lora_targets, seed=0)
    sample = generator.sample(["a cartoon of a cat"], [1], grad=True)
    assert sample.images.dtype == sample.latents.dtype == torch.float32
    sample.images.mean().backward()
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    assert generator.denoise(sample.latents, 0.3, ["a cartoon of a cat"], [1]).isfinite().all()
