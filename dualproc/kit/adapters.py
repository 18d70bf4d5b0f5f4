"""Switch a generator's LoRA off temporarily, so that it draws like its base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def lora_off(module: nn.Module, off: bool = True) -> Iterator[None]:
    """Within, if `off`, the module's LoRA layers return their base layer's output. Afterwards they are as before."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [part for part in module.modules() if isinstance(part, BaseTunerLayer)] if off else []
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True  # PEFT's own enable_adapters() would also set requires_grad
    try:
        yield
    finally:
        for layer, was_off in zip(layers, before, strict=True):
            layer._disable_adapters = was_off
