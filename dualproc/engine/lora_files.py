"""LoRA files as a start of the training, and several of them at once."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualproc.errors import RunError
from dualproc.run.lora_file import read_lora
from dualproc.spec import Lora
from dualproc.wording import listed

from . import lora

if TYPE_CHECKING:
    from torch import Tensor, nn

_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"
_PEFT = "base_model.model."
"""Start of the names in a file of PEFT; in one of diffusers, it is the pipeline's component."""
_CONFIGURATION = "lora_adapter_metadata"
"""Where diffusers keeps the LoRA's rank and alpha, in the header of the file."""
MAX_RANK = 4096
"""Of a file: a higher one would take gigabytes in every other layer."""
LONGEST_NAME = 200
"""Characters of a layer's name in a message."""


class Layer(NamedTuple):
    """The LoRA of one layer, which adds `second @ first` to its weights."""

    first: Tensor
    """[rank, inputs]"""
    second: Tensor
    """[outputs, rank], with the whole scale folded in."""


def read(file: Path) -> dict[str, Layer]:
    """The layers of a LoRA in diffusers' or PEFT's format, by name. Raises RunError if the file is anything else."""
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_lora(file)
        scale = _scale(json.loads(metadata.get(_CONFIGURATION, "{}")))
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, SafetensorError) as error:
        hint = "name a run's folder, or a complete file"
        raise RunError(f"cannot read the LoRA {file}: {error}", hint=hint) from error
    firsts = [name for name in tensors if name.endswith(_FIRST)]
    others = tensors.keys() - {end for name in firsts for end in (name, name.removesuffix(_FIRST) + _SECOND)}
    if not firsts or others:
        found = listed([name[:LONGEST_NAME] for name in sorted(others)]) or "nothing"
        message = f"{file} is not a LoRA in diffusers' format: its names should end with {_FIRST} and {_SECOND}"
        raise RunError(f"{message}; found {found}", hint="convert it with diffusers, or use a run of dualproc")
    layers = {}
    for name in firsts:
        first, second = tensors[name], tensors.get(name.removesuffix(_FIRST) + _SECOND)
        if second is None or not _is_lora(first, second):
            wrong = f"no {_SECOND} for" if second is None else "other tensors than the two factors of a LoRA at"
            raise RunError(f"{file} is damaged: it has {wrong} {name:.{LONGEST_NAME}}", hint="copy it again")
        layers[_plain(name)] = Layer(first, second * scale)
    return layers


def _is_lora(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are matrices of floating-point numbers that can be multiplied, of a sane rank."""
    import torch

    known = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    matrices = first.ndim == second.ndim == 2 and first.dtype in known and second.dtype in known
    return matrices and first.shape[0] == second.shape[1] <= MAX_RANK


def _plain(name: str) -> str:
    """The layer's name in the backbone."""
    layer = name.removesuffix(_FIRST)
    return layer.removeprefix(_PEFT) if layer.startswith(_PEFT) else layer.partition(".")[2]


def _scale(configuration: Any) -> float:
    """alpha / rank, as diffusers applies it; it takes alpha for the rank where nothing is noted.

    Raises ValueError, TypeError or OverflowError if the configuration is not valid.
    """
    if not isinstance(configuration, dict):
        raise ValueError(f"its {_CONFIGURATION} is not a JSON object")
    values = {name.rpartition(".")[2]: value for name, value in configuration.items()}
    rank, alpha = values.get("r"), values.get("lora_alpha")
    scale = float(alpha) / float(rank) if rank and alpha else 1.0
    if not math.isfinite(scale):
        raise ValueError(f"its {_CONFIGURATION} has no finite alpha / rank")
    return scale


def start_from(module: nn.Module, spec: Lora, file: Path) -> None:
    """Set a LoRA that was just attached to the one in `file`: the module computes the same, and can be trained on.

    The file's rank may be lower, and it may have fewer layers: the rest starts as in a fresh LoRA. Raises RunError if
    its rank is higher, if it has other layers, or if its shapes differ.
    """
    import torch

    scale, own = spec.strength * spec.alpha / spec.rank, _attached(module)
    layers = read(file)
    if unknown := sorted(layers.keys() - own.keys()):
        names = listed([name[:LONGEST_NAME] for name in unknown])
        raise RunError(
            f"{file} has a LoRA on layers that are not trained here: {names}",
            hint="set train.lora.targets to include them, or check that it is for this generator",
        )
    with torch.no_grad():
        for name, layer in layers.items():
            (rank, inputs), (first, second) = layer.first.shape, own[name]
            if rank > spec.rank:
                raise RunError(f"{file} has the rank {rank}", hint=f"set train.lora.rank to {rank} or more")
            if (inputs, layer.second.shape[0]) != (first.shape[1], second.shape[0]):
                raise RunError(f"{file} is not a LoRA of this generator: {name} has other shapes")
            first[:rank] = layer.first
            second[:, :rank] = layer.second / scale


class LoraSum:
    """The sum of several LoRAs on a module, each at its own weight: one LoRA of all their ranks.

    sum_i w_i B_i A_i = [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...]
    """

    def __init__(self, module: nn.Module, files: Sequence[Path]) -> None:
        """Attach the LoRAs in `files`, all of them at weight 0.

        Raises RunError if one of them is not a LoRA of this module.
        """
        import torch

        loras = [read(file) for file in files]
        self.ranks = [max(layer.first.shape[0] for layer in layers.values()) for layers in loras]
        rank, targets = sum(self.ranks), tuple(dict.fromkeys(name for layers in loras for name in layers))
        spec = Lora.model_construct(rank=rank, alpha=float(rank), strength=1.0, targets=targets)
        lora.attach(module, spec, targets, seed=0)
        self.own = _attached(module)
        self.seconds = {name: torch.zeros_like(second) for name, (_, second) in self.own.items()}
        with torch.no_grad():
            for first, second in self.own.values():
                first.zero_()
                second.zero_()
            for file, layers, start in zip(files, loras, itertools.accumulate(self.ranks, initial=0), strict=False):
                for name, layer in layers.items():
                    shapes = (layer.first.shape[1], layer.second.shape[0])
                    if name not in self.own or (self.own[name][0].shape[1], self.own[name][1].shape[0]) != shapes:
                        message = f"{file} is not a LoRA of this generator: it has other layers, such as "
                        raise RunError(f"{message}{name:.{LONGEST_NAME}}")
                    mine = slice(start, start + layer.first.shape[0])
                    self.own[name][0][mine] = layer.first
                    self.seconds[name][:, mine] = layer.second

    def set(self, weights: Sequence[float]) -> None:
        """Set the weight of each LoRA, in the order of the files; 1 is as trained, 0 is without it."""
        import torch

        each = [weight for weight, rank in zip(weights, self.ranks, strict=True) for _ in range(rank)]
        with torch.no_grad():
            for name, (_, second) in self.own.items():
                second.copy_(self.seconds[name] * torch.tensor(each, device=second.device))


def _attached(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """The two factors of every layer with a LoRA, as they are trained, by the layer's name."""
    ends: Sequence[str] = [end.replace(".weight", f".{lora.ADAPTER}.weight") for end in (_FIRST, _SECOND)]
    weights = lora.state(module)
    names = [name.removesuffix(ends[0]) for name in weights if name.endswith(ends[0])]
    return {name: (weights[name + ends[0]], weights[name + ends[1]]) for name in names}
