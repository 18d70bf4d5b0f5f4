"""Packed attention: one call for all images and windows of a batch, instead of one call for each.

Image encoders that accept images of any size (Qwen2.5-VL) pack all of them into one sequence, and attention stays
within each image or window. Without FlashAttention's package, transformers splits the sequence and calls attention for
every part, 700 times in a training step with an image of 512 pixels, and a GPU waits for the CPU that starts the calls.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

NAME = "dualproc_flash_packed"
"""Transformers passes the boundaries of the parts to implementations with `flash` in their name."""


def pack_attention(model: nn.Module) -> None:
    """Switch the layers of a transformers model that use torch's attention on packed sequences to `packed_attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    for layer in model.modules():
        config: Any = getattr(layer, "config", None)
        packs = "cu_seqlens" in inspect.signature(type(layer).forward).parameters
        if packs and getattr(config, "_attn_implementation", None) == "sdpa":
            config._attn_implementation = NAME


def packed_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention [1, S, H, D] of `query`, `key` and `value` [1, H, S, D], within each part of the sequence.

    Part n reaches from `cu_seq_lens_q[n]` to `cu_seq_lens_q[n + 1]`; `max_length_q` is the length of the longest.
    """
    import torch

    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and scaling == query.shape[-1] ** -0.5:
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:  # torch before 2.10
            pass
        else:
            bounds = cu_seq_lens_q.to(torch.int32)
            parts = [each[0].transpose(0, 1) for each in (query, key, value)]
            out: Any = varlen_attn(parts[0], parts[1], parts[2], bounds, bounds, max_length_q, max_length_q)
            return out[None], None
    mask = _same_part(cu_seq_lens_q, query.shape[2])
    masked = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return masked.transpose(1, 2), None


def _same_part(bounds: Tensor, length: int) -> Tensor:
    """[S, S]: whether two places are in the same part. Kept with the boundaries, which all layers get."""
    import torch

    mask: Tensor | None = getattr(bounds, "same_part", None)
    if mask is None:
        part = torch.searchsorted(bounds, torch.arange(length, device=bounds.device), right=True)
        mask = part[:, None] == part
        bounds.same_part = mask  # type: ignore[attr-defined]
    return mask
