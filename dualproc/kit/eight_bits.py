"""Frozen 8-bit layers. Importing this module imports bitsandbytes."""

from __future__ import annotations

from typing import Any

import bitsandbytes
from torch import Tensor


class FrozenLinear8bit(bitsandbytes.nn.Linear8bitLt):  # type: ignore[misc]
    """bitsandbytes' 8-bit linear layer without what training its weights needs, for inputs of any shape (..., n).

    bitsandbytes keeps the layer's input for the gradient of the weights, also if they are frozen, and as an attribute,
    which activation checkpointing does not release: 10 GB for FLUX.1-schnell and Qwen2.5-VL-7B (docs/performance.md).
    Inputs of four dimensions, which Mllama has, it refuses.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The product with the weights."""
        output: Tensor = super().forward(x.reshape(-1, x.shape[-1]))
        product: Any = output.grad_fn
        if hasattr(product, "tensors"):
            product.tensors = (None, None, None)
        return output.reshape(*x.shape[:-1], output.shape[-1])
