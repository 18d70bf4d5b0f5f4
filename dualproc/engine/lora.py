"""The LoRA: attached to the generator's backbone, and exported with its scale folded in.

With sliders, it consists of several on the same layers: a *centre* at weight 1, and for each slider one at weight u,
its position in [-1, 1], and with `degree: 2` another one at weight u * u. Each is a file of its own, and any tool can
add them up at these weights.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError, RunError
from dualproc.run.folder import SLIDERS
from dualproc.run.lora_file import read_lora
from dualproc.spec import Lora, Slider
from dualproc.wording import listed

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTER = "dualproc"
"""PEFT's name of the LoRA or, with sliders, of the centre."""
_OURS = re.compile(rf"\.{ADAPTER}(?:-[^.]+)?(?=\.|$)")
"""An adapter's name within the name of a weight, or at the end of the name of a module."""


def weights_at(sliders: Mapping[str, Slider], values: Mapping[str, float]) -> dict[str, float]:
    """The weight of every adapter with the sliders at `values`: {"dualproc": 1, "dualproc-row": u, ...}."""
    weights = {ADAPTER: 1.0}
    for name, slider in sliders.items():
        u = slider.position(values[name])
        weights |= {f"{ADAPTER}-{name}": u} | ({f"{ADAPTER}-{name}-2": u * u} if slider.degree == 2 else {})
    return weights


def adapters(sliders: Mapping[str, Slider]) -> list[str]:
    """The names of all adapters, the centre first; without sliders, only that one."""
    return list(weights_at(sliders, {name: slider.low for name, slider in sliders.items()}))


def folder(adapter: str) -> str:
    """The subfolder of a run for the files of an adapter; empty for the centre."""
    return adapter.replace(f"{ADAPTER}-", f"{SLIDERS}/") if adapter != ADAPTER else ""


def set_weights(module: nn.Module, spec: Lora, weights: Mapping[str, float]) -> None:
    """Set the weight of adapters, by name; 1 is the trained strength."""
    from peft.tuners.lora import LoraLayer

    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            for adapter, weight in weights.items():
                layer.set_scale(adapter, spec.strength * weight)


def attach(
    module: nn.Module, spec: Lora, targets: Sequence[str], *, seed: int, adapters: Sequence[str] = (ADAPTER,)
) -> list[nn.Parameter]:
    """Put a fresh LoRA on the `targets` of a module, and return its weights, in float32: all that is trained.

    A target is the end of layer names (`to_q`, `attn.to_q`); `*` stands for one part of a name, such as a block's
    number. It matches whole parts only: `blocks.*.to_q` does not match `single_blocks.0.to_q`. The effective scale is
    strength * alpha / rank (paper: 5 * 8 / 16 = 2.5). A fresh LoRA changes nothing, because its second factor is zero.
    With several `adapters`, each layer gets one of each name, all of them at weight 1.

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
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several adapters are intended
            for adapter in adapters:
                inject_adapter_in_model(config, module, adapter_name=adapter)
    except ValueError as error:
        linear = sorted(
            {name.split(".", 2)[-1] for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
        )
        named = listed([one[:200] for one in wanted], most=20)
        raise DualprocError(
            f"no layer of {type(module).__name__} matches the LoRA's targets {named}",
            hint=f"set train.lora.targets to the ends of names of its linear layers, such as {', '.join(linear[:8])}",
        ) from error
    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter(list(adapters))
    set_weights(module, spec, dict.fromkeys(adapters, 1.0))
    # An offloaded module computes on another device than its weights are on; it names that device as accelerate does.
    # The LoRA must be there before the optimiser keeps moments for it.
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    for name, part in module.named_modules():
        if (found := _OURS.search(name)) and found.end() == len(name):
            # PEFT leaves all but the first adapter on the CPU if the module is on the meta device.
            centre = next(module.get_submodule(f"{name[: found.start()]}.{ADAPTER}").parameters(), None)
            home = device or (centre.device if centre is not None else None)
            part.to(device=home, dtype=torch.float32)
    return [value for name, value in module.named_parameters() if _OURS.search(name)]


def _pattern(targets: Sequence[str]) -> str:
    """A regular expression for the full names of the layers that `targets` match."""
    endings = "|".join(re.escape(target).replace(r"\*", r"[^.]+") for target in targets)
    return rf"(?:.*\.)?(?:{endings})"


def state(module: nn.Module) -> dict[str, Tensor]:
    """The LoRA's weights by PEFT's names, as they are trained: what a checkpoint keeps."""
    return {name: value.detach() for name, value in module.named_parameters() if _OURS.search(name)}


def restore(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set the LoRA's weights to what `state` returned."""
    _copy(module, {name: tensors[name] for name in state(module)})


def _copy(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Set some of the LoRA's weights, by PEFT's names."""
    import torch

    own = state(module)
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def load_export(module: nn.Module, spec: Lora, file: Path, *, strength: float = 1.0, adapter: str = ADAPTER) -> None:
    """Set an attached LoRA to the weights that `folded` wrote to a run's file, at `strength` (1 as trained).

    Raises RunError if the file is damaged, or is not a LoRA of this module.
    """
    from safetensors import SafetensorError

    scale = spec.strength * spec.alpha / spec.rank
    try:
        saved = {name.partition(".")[2]: value for name, value in read_lora(file)[0].items()}  # without "transformer."
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(
            f"{file} is damaged: {error}",
            hint="copy it again, or write it again from the run's checkpoint with `dp run ... --resume`",
        ) from error
    tensors = {}
    for name, own in _of(module, adapter).items():
        plain = name.replace(f".{adapter}.", ".")
        if plain not in saved:
            raise RunError(f"{file} is not a LoRA of this generator: it has no {plain}")
        if saved[plain].shape != own.shape:
            shapes = f"{list(saved[plain].shape)} instead of {list(own.shape)}"
            raise RunError(f"{file} is not a LoRA of this generator: {plain} has the shape {shapes}")
        tensors[name] = saved[plain] / scale if ".lora_B." in plain else saved[plain]
    _copy(module, tensors)
    set_weights(module, spec, {adapter: strength})


def folded(module: nn.Module, spec: Lora, adapter: str = ADAPTER) -> dict[str, Tensor]:
    """The LoRA as other tools load it: PEFT's names without the adapter's, scale folded into lora_B (alpha == rank)."""
    scale = spec.strength * spec.alpha / spec.rank
    out = {}
    for name, value in _of(module, adapter).items():
        plain = name.replace(f".{adapter}.", ".")
        out[plain] = (value * scale if ".lora_B." in plain else value).contiguous().cpu()
    return out


def combined(module: nn.Module, spec: Lora, weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Several adapters at their weights as one LoRA like that of `folded`, of the sum of their ranks.

    sum_i w_i B_i A_i = [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...]
    """
    import torch

    parts = [(weight, folded(module, spec, adapter)) for adapter, weight in weights.items()]
    return {
        name: torch.cat([weight * part[name] for weight, part in parts], 1)
        if ".lora_B." in name
        else torch.cat([part[name] for _, part in parts])
        for name in parts[0][1]
    }


def _of(module: nn.Module, adapter: str) -> dict[str, Tensor]:
    """The weights of one adapter."""
    return {name: value for name, value in state(module).items() if f".{adapter}." in name}
