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
FIRST_WITH_KERNEL = 8
"""The first CUDA compute capability (Ampere) that FlashAttention supports: T4, V100 and older GPUs have a lower one."""


def pack_attention(model: nn.Module) -> None:
    """Let the layers of a transformers model that use torch's attention on packed sequences use `packed_attention`."""
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
    _mask: Tensor | None = None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    **_others: Any,
) -> tuple[Tensor, None]:
    """Attention [1, S, H, D] of `query`, `key` and `value` [1, H, S, D], within each part of the sequence.

    Part n reaches from `cu_seq_lens_q[n]` to `cu_seq_lens_q[n + 1]`; `max_length_q` is the length of the longest.
    """
    import torch

    if has_kernel(query) and scaling == query.shape[-1] ** -0.5:
        try:
            from torch.nn.attention.varlen import varlen_attn
        except ImportError:  # torch before 2.10
            pass
        else:
            bounds = cu_seq_lens_q.to(torch.int32)
            parts = [each[0].transpose(0, 1) for each in (query, key, value)]
            packed: Any = varlen_attn(parts[0], parts[1], parts[2], bounds, bounds, max_length_q, max_length_q)
            return packed[None], None
    index, mask, back = _padding(cu_seq_lens_q, max_length_q, query.shape[2])
    q, k, v = (each[0].transpose(0, 1)[index].transpose(1, 2) for each in (query, key, value))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1)[back][None], None


def has_kernel(query: Tensor) -> bool:
    """Whether torch's kernel for packed sequences (FlashAttention) takes such tensors [1, H, S, D]."""
    import torch

    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.shape[-1] % 8 == 0
    return half and torch.cuda.get_device_properties(query.device).major >= FIRST_WITH_KERNEL


def _padding(bounds: Tensor, longest: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """How N parts of a sequence of `length` become a batch [N, L] padded to the `longest` part, and the way back.

    Returns the place in the sequence of everything in the batch [N, L], whether it is not padding [N, 1, 1, L], and the
    place in the flattened batch of everything in the sequence [S].
    """
    import torch

    column = torch.arange(longest, device=bounds.device)
    places = torch.arange(length, device=bounds.device)
    starts, sizes = bounds[:-1], bounds.diff()
    part = torch.searchsorted(bounds, places, right=True) - 1
    index = (starts[:, None] + column).clamp(max=length - 1)
    return index, (column < sizes[:, None])[:, None, None], part * longest + places - starts[part]
