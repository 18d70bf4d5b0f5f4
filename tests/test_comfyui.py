"""The LoRA file that a model card names for ComfyUI has only keys that ComfyUI knows, and the same weights."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from small_pipelines import FAMILIES, small

from dualproc import registry
from dualproc.engine import lora
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.export import COMFYUI, DIFFUSERS
from dualproc.spec import Lora

TABLE = json.loads((Path(__file__).parent / "comfyui_keys.json").read_text())
SPEC = Lora(rank=2, strength=2.0)


def trained(family: str, folder: Path, targets: tuple[str, ...] | None = None) -> DiffusersGenerator:
    """A small generator with a random LoRA on its preset's layers, saved in `folder`."""
    generator = small(family)
    if targets is None:
        targets = tuple(registry.load("generators", FAMILIES[family].preset).params({}).lora_targets)
    weights = lora.attach(generator.adapter_module, SPEC, targets, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight += 0.05 * torch.randn_like(weight)
    generator.save_lora(folder, lora.folded(generator.adapter_module, SPEC))
    return generator


def unknown(family: str, file: Path) -> set[str]:
    """The keys of a file that ComfyUI would not load."""
    names = TABLE["families"][TABLE["same_as"].get(family, family)]
    known = re.compile("|".join(re.escape(name).replace(r"\*", r"\d+") for name in names))
    ends = tuple(TABLE["ends"])
    keys = {key: next((end for end in ends if key.endswith(end)), "") for key in load_file(file)}
    return {key for key, end in keys.items() if not end or not known.fullmatch(key.removesuffix(end))}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_that_the_recipe_names_has_only_keys_that_comfyui_knows(family: str, tmp_path: Path) -> None:
    generator = trained(family, tmp_path)
    named = generator.recipe().comfyui
    if family in TABLE["not_checked"]:
        assert named is None
        assert not (tmp_path / COMFYUI).exists()
        return
    assert named is not None
    assert unknown(family, tmp_path / named) == set()
    assert (named == COMFYUI) is (tmp_path / COMFYUI).exists() is bool(unknown(family, tmp_path / DIFFUSERS))


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_diffusers_draws_the_same_with_the_file_for_comfyui(family: str, tmp_path: Path) -> None:
    generator = trained(family, tmp_path)
    images = []
    for file in (None, DIFFUSERS, COMFYUI):
        pipe = DiffusionPipeline.from_pretrained(generator.params.model, dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        if file is not None:
            pipe.load_lora_weights(str(tmp_path), weight_name=file)
        noise = torch.Generator().manual_seed(3)
        images.append(pipe("a cat", **generator.recipe().call, generator=noise, output_type="pt").images)
    base, first, second = images
    assert (first - base).abs().max() > 1e-3
    torch.testing.assert_close(second, first, atol=1e-5, rtol=0)


@pytest.mark.parametrize("targets", [None, ("layers.*.attn.to_k",), ("layers.*.attn.to_q", "layers.*.attn.to_v")])
def test_fused_projections_add_the_same_to_the_weights(targets: tuple[str, ...] | None, tmp_path: Path) -> None:
    """Query, key and value below each other, as they are in ComfyUI's layer; a layer without a LoRA adds nothing."""
    module = trained("lumina2", tmp_path, targets).adapter_module
    plain, fused = load_file(tmp_path / DIFFUSERS), load_file(tmp_path / COMFYUI)

    def change(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        return tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]

    for block in ("layers.0", "layers.1"):
        parts = []
        for which in "qkv":
            name = f"{block}.attn.to_{which}"
            if f"transformer.{name}.lora_A.weight" in plain:
                parts.append(change(plain, f"transformer.{name}"))
            else:
                parts.append(torch.zeros_like(module.get_submodule(name).weight))
        torch.testing.assert_close(change(fused, f"diffusion_model.{block}.attention.qkv"), torch.cat(parts))
        if targets is None:
            pairs = {"attn.to_out.0": "attention.out", "feed_forward.linear_2": "feed_forward.w2"}
            for old, new in pairs.items():
                torch.testing.assert_close(
                    change(fused, f"diffusion_model.{block}.{new}"), change(plain, f"transformer.{block}.{old}")
                )
