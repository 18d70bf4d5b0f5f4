"""Save the LoRAs of pipelines that have no LoRA loader."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_layers(folder: Path, backbone: str, layers: Mapping[str, Tensor]) -> None:
    """Write a LoRA twice: in diffusers' format, and as a PEFT adapter, which PEFT loads for any module.

    `PeftModel.from_pretrained(pipe.transformer, folder)` reads the second, at weight 1.0. `layers` are tensors by
    PEFT's names without the adapter's, with the scale folded in.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    tensors = {name: value.contiguous() for name, value in layers.items()}
    note = {"format": "pt"}
    save_file({f"{backbone}.{k}": v for k, v in tensors.items()}, folder / "pytorch_lora_weights.safetensors", note)
    save_file({f"base_model.model.{k}": v for k, v in tensors.items()}, folder / "adapter_model.safetensors", note)
    first = {name.removesuffix(".lora_A.weight"): v for name, v in tensors.items() if name.endswith(".lora_A.weight")}
    rank = next(iter(first.values())).shape[0]
    LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(first)).save_pretrained(str(folder))
