"""Offloading: the frozen weights of a model's blocks stay in main memory, and are on the device while a block computes.

A block's copies are made before its forward pass and dropped after it; they are never copied back. But autograd keeps
the copies that the backward pass needs, so offloading saves memory only together with activation checkpointing: then
each block is recomputed, with new copies, just before its own backward pass, and the copies of few blocks are alive.

On a CUDA GPU, the weights of a block lie in one page-locked buffer, and the next block's weights are copied while a
block computes.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import wraps
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .blocks import recomputed_blocks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ALIGNMENT = 256
"""Weights begin at multiples of this many bytes in a buffer, as torch's own allocations do on a GPU."""


def offload(module: nn.Module, device: torch.device) -> None:
    """Keep the frozen weights of the module's blocks where they are, and compute with copies on `device`.

    Changes the module in place: wraps the `forward` of every block, and moves all other frozen weights (embeddings,
    heads) and the buffers to `device`. Weights that require a gradient stay where they are. A LoRA that is attached
    later must be put on `device`. Set up checkpointing that wraps the `forward` of blocks after this call, so that
    recomputation makes copies too.
    """
    import torch

    # accelerate's convention: diffusers, transformers and `engine.lora` read the device that a module computes on here.
    module._hf_hook = SimpleNamespace(execution_device=device)  # type: ignore[assignment]
    blocks = recomputed_blocks(module)
    placed = {weight: weight for block in blocks for weight in block.parameters()}
    """Each weight, and what it is now: itself, or one copy of it, also where several layers share it."""
    for layer in module.modules():
        for name, buffer in layer._buffers.items():
            layer._buffers[name] = None if buffer is None else buffer.to(device)
        for name, weight in layer._parameters.items():
            if weight is not None and not weight.requires_grad:
                if weight not in placed:
                    placed[weight] = torch.nn.Parameter(weight.detach().to(device), requires_grad=False)
                layer._parameters[name] = placed[weight]
    copier = (_CudaCopier if device.type == "cuda" else _Copier)([_frozen(block) for block in blocks], device)
    for index, block in enumerate(blocks):
        _compute_with_copies(block, copier, index)


Places = Sequence[tuple["nn.Module", str]]
"""Where the frozen weights of a block are: the layer, and the name in it."""


def _frozen(block: nn.Module) -> Places:
    places = [(layer, name, weight) for layer in block.modules() for name, weight in layer._parameters.items()]
    return [(layer, name) for layer, name, weight in places if weight is not None and not weight.requires_grad]


def _compute_with_copies(block: nn.Module, copier: _Copier, index: int) -> None:
    """Let copies stand in for the block's frozen weights during its forward pass."""
    forward, places = block.forward, copier.blocks[index]

    @wraps(forward)
    def wrapped(*inputs: Any, **named: Any) -> Any:
        weights = _weights(places)
        try:
            # Replace the entry, not the weight's `.data`: autograd must keep the copy, not the weight itself.
            _set(places, copier.copies(index))
            return forward(*inputs, **named)
        finally:
            _set(places, weights)
            copier.passed()

    block.forward = wrapped


def _weights(places: Places) -> list[Tensor]:
    return [layer._parameters[name] for layer, name in places]  # type: ignore[misc]


def _set(places: Places, weights: Sequence[Tensor]) -> None:
    for (layer, name), weight in zip(places, weights, strict=True):
        layer._parameters[name] = weight  # type: ignore[assignment]


class _Copier:
    """Copies the weights of one block at a time to a device."""

    def __init__(self, blocks: Sequence[Places], device: torch.device) -> None:
        self.blocks, self.device = blocks, device

    def copies(self, index: int) -> list[Tensor]:
        """The weights of a block on the device."""
        return [weight.detach().to(self.device, copy=True) for weight in _weights(self.blocks[index])]

    def passed(self) -> None:
        """A block has computed."""


class Order:
    """Predicts which block computes next, from the order of earlier passes: U-Nets do not use theirs as listed."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], int] = {}
        """The block that came after two blocks, the last time."""
        self.last = (-1, -1)

    def after(self, index: int) -> int:
        """The block that probably follows block `index`, which computes now; it may not exist."""
        before = self.last[1]
        self.seen[self.last] = index
        self.last = (before, index)
        return self.seen.get(self.last, 2 * index - before)  # at first: on in the same direction


class _CudaCopier(_Copier):
    """Copies from page-locked memory, and ahead: while a block computes, the next one's weights are on their way."""

    def __init__(self, blocks: Sequence[Places], device: torch.device) -> None:
        import torch

        super().__init__(blocks, device)
        self.buffers = [_page_locked(_into_one_buffer(_weights(places))) for places in blocks]
        self.stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.ahead: dict[int, tuple[Tensor, torch.cuda.Event]] = {}
        """The block that is copied ahead: its buffer on the device, and the event at the end of the copy."""
        self.order = Order()
        self.ends: deque[torch.cuda.Event] = deque(maxlen=2)

    def copies(self, index: int) -> list[Tensor]:
        import torch

        buffer, copied = self.ahead.pop(index) if index in self.ahead else self._start(index)
        self.ahead.clear()
        # The CPU runs ahead of the GPU, and would fill its memory with the copies of all blocks.
        if len(self.ends) == self.ends.maxlen:
            self.ends[0].synchronize()
        following = self.order.after(index)
        if 0 <= following < len(self.blocks):
            self.ahead[following] = self._start(following)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(copied)
        buffer.record_stream(stream)
        return _views(buffer, _weights(self.blocks[index]))

    def passed(self) -> None:
        import torch

        self.ends.append(torch.cuda.current_stream(self.device).record_event())

    def _start(self, index: int) -> tuple[Tensor, torch.cuda.Event]:
        import torch

        with torch.cuda.stream(self.stream):
            return self.buffers[index].to(self.device, non_blocking=True), self.stream.record_event()


def _into_one_buffer(weights: Sequence[Tensor]) -> Tensor:
    """Move weights into one buffer of bytes, and let them be views of it."""
    import torch

    buffer = torch.empty(_offsets(weights)[-1], dtype=torch.uint8)
    for weight, view in zip(weights, _views(buffer, weights), strict=True):
        view.copy_(weight.detach())
        weight.data = view
    return buffer


def _views(buffer: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """The parts of a buffer that hold these weights, in their shapes."""
    return [
        buffer[start : start + weight.numel() * weight.element_size()].view(weight.dtype).view(weight.shape)
        for weight, start in zip(weights, _offsets(weights), strict=False)
    ]


def _offsets(weights: Sequence[Tensor]) -> list[int]:
    """Where each weight begins in a buffer of bytes, and at last, where the buffer ends."""
    offsets = [0]
    for weight in weights:
        size = weight.numel() * weight.element_size()
        offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return offsets


def _page_locked(buffer: Tensor) -> Tensor:
    """The buffer, whose memory a GPU may now read by itself; unchanged if the operating system does not allow it."""
    import torch

    # Not `pin_memory()`, which would round its size up to a power of two, and copy it.
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    start = buffer.data_ptr()
    if not buffer.numel():
        return buffer
    if int(runtime.cudaHostRegister(start, buffer.numel(), 0)) == 0:
        weakref.finalize(buffer, runtime.cudaHostUnregister, start)
    else:
        # CUDA keeps the error, and torch would raise it at its next kernel, whatever that is: let it do so here.
        with suppress(RuntimeError):
            torch.zeros(1, device="cuda")
    return buffer
