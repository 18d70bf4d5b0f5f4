"""Files of a LoRA besides the one that a pipeline saves: for pipelines without a LoRA loader, and for ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

DIFFUSERS = "pytorch_lora_weights.safetensors"
COMFYUI = "comfyui_lora.safetensors"
_NOTE = {"format": "pt"}


def save_layers(folder: Path, backbone: str, layers: Mapping[str, Tensor]) -> None:
    """Write a LoRA twice: in diffusers' format, and as a PEFT adapter, which PEFT loads for any module.

    `PeftModel.from_pretrained(pipe.transformer, folder)` reads the second, at weight 1.0. `layers` are tensors by
    PEFT's names without the adapter's, with the scale folded in.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors = {name: value.contiguous() for name, value in layers.items()}
    save_file({f"{backbone}.{k}": v for k, v in tensors.items()}, folder / DIFFUSERS, _NOTE)
    save_file({f"base_model.model.{k}": v for k, v in tensors.items()}, folder / "adapter_model.safetensors", _NOTE)
    first = {name.removesuffix(".lora_A.weight"): v for name, v in tensors.items() if name.endswith(".lora_A.weight")}
    rank = next(iter(first.values())).shape[0]
    LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(first)).save_pretrained(str(folder))


def save_for_comfyui(folder: Path, pipeline: str, layers: Mapping[str, Tensor], backbone: nn.Module) -> None:
    """Write a LoRA with ComfyUI's key names, if the pipeline's class is one where it does not know diffusers' own."""
    from safetensors.torch import save_file

    if pipeline in _RENAMED:
        tensors = _RENAMED[pipeline](layers, backbone)
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / COMFYUI, _NOTE)


def comfyui_file(pipeline: str) -> str | None:
    """The file that ComfyUI loads completely, for a pipeline of this class; None if that is unknown.

    From the key names that ComfyUI accepts, which the tests list for each family (tests/comfyui_keys.json).
    """
    if pipeline in _RENAMED:
        return COMFYUI
    return DIFFUSERS if pipeline in _KNOWN else None


def _kohya(layers: Mapping[str, Tensor], _: nn.Module) -> dict[str, Tensor]:
    """The names of kohya's tools: ComfyUI looks for attention layers of a U-Net under these."""
    from diffusers.utils import convert_state_dict_to_kohya

    renamed: dict[str, Tensor] = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in layers.items()})
    return renamed


def _lumina2(layers: Mapping[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    """The names of Lumina's own code, where query, key and value are one layer with one LoRA of the sum of their ranks.

    Its first factor stacks those of the three layers; its second has theirs on the diagonal.
    """
    import torch

    renamed: dict[str, Tensor] = {}
    for name in dict.fromkeys(name.partition(".lora_")[0] for name in layers):
        block, projection, _ = name.partition(".attn.to_")
        first, second = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
        if projection and not name.endswith(".to_out.0"):
            fused = f"diffusion_model.{block}.attention.qkv"
            names = [f"{block}.attn.to_{which}" for which in "qkv"]
            nothing = [torch.zeros(_outputs(backbone, one), 0) for one in names]  # of a projection without a LoRA
            seconds = [layers.get(f"{one}.lora_B.weight", none) for one, none in zip(names, nothing, strict=True)]
            firsts = [layers[f"{one}.lora_A.weight"] for one in names if f"{one}.lora_A.weight" in layers]
            renamed[f"{fused}.lora_A.weight"] = torch.cat(firsts)
            renamed[f"{fused}.lora_B.weight"] = torch.block_diag(*seconds)  # type: ignore[no-untyped-call]
            continue
        own = name
        for old, new in _LUMINA2:
            own = own.replace(old, new)
        renamed[f"diffusion_model.{own}.lora_A.weight"] = layers[first]
        renamed[f"diffusion_model.{own}.lora_B.weight"] = layers[second]
    return renamed


def _outputs(backbone: nn.Module, name: str) -> int:
    linear: Any = backbone.get_submodule(name)
    return int(linear.out_features)


_LUMINA2 = (
    (".attn.to_out.0", ".attention.out"),
    (".feed_forward.linear_", ".feed_forward.w"),
    (".norm1.linear", ".adaLN_modulation.1"),
)
_RENAMED: Mapping[str, Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]]] = {
    "StableDiffusionPipeline": _kohya,
    "StableDiffusionXLPipeline": _kohya,
    "Lumina2Pipeline": _lumina2,
}
_KNOWN = frozenset({
    "FluxPipeline", "Flux2KleinPipeline", "StableDiffusion3Pipeline", "PixArtSigmaPipeline", "QwenImagePipeline",
    "ZImagePipeline",
})  # fmt: skip
"""Pipelines whose LoRAs ComfyUI loads under diffusers' names."""
