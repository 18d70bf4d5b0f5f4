"""The LoRA: attached to the generator's backbone, and exported with its scale folded in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError, RunError
from dualproc.spec import Lora

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

ADAPTER = "dualproc"


def attach(module: nn.Module, spec: Lora, targets: Sequence[str], *, seed: int) -> list[nn.Parameter]:
    """Put a fresh LoRA on the `targets` of a module, and return its weights, in float32: all that is trained.

    A target is the end of layer names (`to_q`, `attn.to_q`); `*` stands for one part of a name, such as a block's
    number. It matches whole parts only: `blocks.*.to_q` does not match `single_blocks.0.to_q`. The effective scale is
    strength * alpha / rank (paper: 5 * 8 / 16 = 2.5). A fresh LoRA changes nothing, because its second factor is zero.

    Raises DualprocError if no layer matches.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    wanted = list(spec.targets or targets)
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, target_modules=_pattern(wanted), init_lora_weights="gaussian"
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except ValueError as error:
        linear = sorted(
            {name.split(".", 2)[-1] for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
        )
        raise DualprocError(
            f"no layer of {type(module).__name__} matches the LoRA's targets {', '.join(wanted)}",
            hint=f"set train.lora.targets to the ends of names of its linear layers, such as {', '.join(linear[:8])}",
        ) from error
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(ADAPTER, spec.strength)
    # An offloaded module computes on another device than its weights are on; it names that device as accelerate does.
    # The LoRA must be there before the optimiser keeps moments for it.
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    for name, part in module.named_modules():
        if name.endswith(f".{ADAPTER}"):
            part.to(device=device, dtype=torch.float32)
    return [value for name, value in module.named_parameters() if f".{ADAPTER}." in name]


def _pattern(targets: Sequence[str]) -> str:
    """A regular expression for the full names of the layers that `targets` match."""
    endings = "|".join(re.escape(target).replace(r"\*", r"[^.]+") for target in targets)
    return rf"(?:.*\.)?(?:{endings})"


def state(module: nn.Module) -> dict[str, Tensor]:
    """The LoRA's weights by PEFT's names, as they are trained: what a checkpoint keeps."""
    return {name: value.detach() for name, value in module.named_parameters() if f".{ADAPTER}." in name}


def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the LoRA's weights to what `state` returned."""
    import torch

    with torch.no_grad():
        for name, value in state(module).items():
            value.copy_(tensors[name])


def load_export(module: nn.Module, spec: Lora, file: Path, *, strength: float = 1.0) -> None:
    """Set the attached LoRA to the weights that `folded` wrote to a run's file, at `strength` (1 as trained).

    Raises RunError if the file is damaged, or is not a LoRA of this module.
    """
    from peft.tuners.lora import LoraLayer
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    scale = spec.strength * spec.alpha / spec.rank
    try:
        saved = {name.partition(".")[2]: value for name, value in load_file(file).items()}  # without "transformer."
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"{file} is damaged: {error}", hint="copy it again, or continue the run from its checkpoint with `--resume`"
        ) from error
    tensors = {}
    for name, own in state(module).items():
        plain = name.replace(f".{ADAPTER}.", ".")
        if plain not in saved:
            raise RunError(f"{file} is not a LoRA of this generator: it has no {plain}")
        if saved[plain].shape != own.shape:
            shapes = f"{list(saved[plain].shape)} instead of {list(own.shape)}"
            raise RunError(f"{file} is not a LoRA of this generator: {plain} has the shape {shapes}")
        tensors[name] = saved[plain] / scale if ".lora_B." in plain else saved[plain]
    restore(module, tensors)
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.set_scale(ADAPTER, spec.strength * strength)


def folded(module: nn.Module, spec: Lora) -> dict[str, Tensor]:
    """The LoRA as other tools load it: PEFT's names without the adapter's, scale folded into lora_B (alpha == rank)."""
    scale = spec.strength * spec.alpha / spec.rank
    out = {}
    for name, value in state(module).items():
        plain = name.replace(f".{ADAPTER}.", ".")
        out[plain] = (value * scale if ".lora_B." in plain else value).contiguous().cpu()
    return out
