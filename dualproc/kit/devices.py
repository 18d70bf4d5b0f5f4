"""Which device a model computes on: the parameter type, the torch device that a name stands for, and its memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dualproc.errors import PluginError

if TYPE_CHECKING:
    import torch

Device = Annotated[
    str,
    Field(
        pattern=r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?)$",
        description="`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`.",
    ),
]
"""A parameter that names a device."""


def pick_device(wanted: str) -> torch.device:
    """The torch device for a name; `auto` is a GPU if there is one. Raises PluginError if the GPU does not exist."""
    import torch

    if wanted == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    device = torch.device(wanted)
    if device.type != "cpu":
        count = getattr(torch, device.type).device_count()
        if (device.index or 0) >= count:
            raise PluginError(
                f"device: torch finds no {wanted} on this machine ({device.type} devices: {count})",
                hint="leave `device` out to use what there is, or install the torch build for this machine's GPU",
            )
    return device


def free_memory() -> None:
    """Free the memory of models that nothing refers to any more, on the GPU too.

    Models refer to themselves in circles (hooks, wrapped methods), so that only Python's garbage collector finds them.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Within, torch does not use cuDNN's attention kernels.

    With torch 2.11 on an H200, their backward pass ended in an illegal memory access for FLUX.1 with Qwen2.5-VL.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield
