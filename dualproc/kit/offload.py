"""Offloading: frozen weights stay in main memory and are copied to the device while a layer uses them.

A layer's copies are made before its forward pass and dropped after it. But autograd keeps the copies that the backward
pass needs, so offloading saves memory only together with activation checkpointing: then each block is recomputed, with
new copies, just before its own backward pass, and the copies of one block at a time are alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def offload(module: nn.Module, device: torch.device) -> None:
    """Keep the module's frozen weights where they are, and let each layer compute with copies of them on `device`.

    Changes the module in place: wraps the `forward` of every layer with frozen weights, and moves buffers to `device`.
    Weights that require a gradient stay where they are. A LoRA that is attached later must be put on `device`. Set up
    checkpointing that wraps the `forward` of layers after this call, so that recomputation makes copies too.
    """
    # accelerate's convention: diffusers, transformers and `engine.lora` read the device that a module computes on here.
    module._hf_hook = SimpleNamespace(execution_device=device)  # type: ignore[assignment]
    for layer in module.modules():
        for name, buffer in layer._buffers.items():
            layer._buffers[name] = None if buffer is None else buffer.to(device)
        frozen = [name for name, weight in layer._parameters.items() if weight is not None and not weight.requires_grad]
        if frozen:
            layer.forward = _with_copies(layer, frozen, device)


def refuse_offload_with_quantize(params: Any) -> Any:
    """A pydantic validator (mode `after`) for `Params` with `offload` and `quantize`: ValueError if both are set."""
    if params.offload and params.quantize:
        raise ValueError(
            "`offload` and `quantize` cannot be set together: quantised weights must stay on the GPU; leave one out"
        )
    return params


def _with_copies(layer: nn.Module, names: Sequence[str], device: torch.device) -> Callable[..., Any]:
    """The layer's `forward`, during which copies on `device` stand in for its weights of these names."""
    forward = layer.forward

    @wraps(forward)
    def wrapped(*inputs: Any, **named: Any) -> Any:
        weights = {name: layer._parameters[name] for name in names}
        try:
            for name, weight in weights.items():
                assert weight is not None
                # Replace the entry, not the weight's `.data`: autograd must keep the copy, not the weight itself.
                layer._parameters[name] = weight.detach().to(device, copy=True, non_blocking=True)  # type: ignore[assignment]
            return forward(*inputs, **named)
        finally:
            layer._parameters.update(weights)

    return wrapped
