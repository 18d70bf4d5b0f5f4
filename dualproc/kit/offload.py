"""Frozen weights that stay in main memory, and are on the device only while they are computed with.

Every layer computes with copies of its weights, made before and given up after. A backward pass needs them again, and
autograd keeps the copies that a forward pass has used: so memory is saved only where activations are checkpointed. Then
a block is computed again, with fresh copies, just before its own backward pass, and one block's are kept at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def offload(module: nn.Module, device: torch.device) -> None:
    """Keep the module's frozen weights where they are; each layer computes with copies of its own on `device`.

    Buffers move to `device` for good. What is attached later, such as a LoRA, belongs there too. Checkpointing that
    wraps a layer's `forward` comes after this, so that what is computed again has copies, too.
    """
    # By accelerate's convention: where pipelines, and who attaches a LoRA, ask on which device it computes.
    module._hf_hook = SimpleNamespace(execution_device=device)  # type: ignore[assignment]
    for layer in module.modules():
        for name, buffer in layer._buffers.items():
            layer._buffers[name] = None if buffer is None else buffer.to(device)
        frozen = [name for name, weight in layer._parameters.items() if weight is not None and not weight.requires_grad]
        if frozen:
            layer.forward = _computing_with_copies(layer.forward, _Guest(layer, frozen, device))


def _computing_with_copies(forward: Callable[..., Any], guest: _Guest) -> Callable[..., Any]:
    @wraps(forward)
    def wrapped(*inputs: Any, **named: Any) -> Any:
        guest.arrive()
        try:
            return forward(*inputs, **named)
        finally:
            guest.leave()

    return wrapped


def whole_or_quantized(params: Any) -> Any:
    """A validator of a plugin's `Params`. Raises ValueError if weights are to be both offloaded and quantised."""
    if params.offload and params.quantize:
        raise ValueError(
            "`offload` and `quantize` cannot be set together: quantised weights lie on the GPU; leave one out"
        )
    return params


class _Guest:
    """Copies of one layer's weights that take their places while it computes."""

    def __init__(self, layer: nn.Module, names: list[str], device: torch.device) -> None:
        self.layer, self.names, self.device = layer, names, device
        self.own: dict[str, Tensor | None] = {}

    def arrive(self) -> None:
        """Before a forward pass."""
        self.own = {name: self.layer._parameters[name] for name in self.names}
        for name, weight in self.own.items():
            assert weight is not None
            # In its place, not as its `.data`: autograd must keep the copy, and not what then stands here again.
            self.layer._parameters[name] = weight.detach().to(self.device, copy=True, non_blocking=True)  # type: ignore[assignment]

    def leave(self) -> None:
        """After it."""
        self.layer._parameters.update(self.own)  # type: ignore[arg-type]
