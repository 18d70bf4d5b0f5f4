"""Which device a model computes on: the parameter type, the torch device that a name stands for, and its memory."""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from dualproc.errors import DualprocWarning, PluginError

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


NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux describes a loaded NVIDIA driver."""
NOTHING_THERE = ("Found no NVIDIA driver", "No CUDA GPUs are available")
"""How torch's reasons begin that also hold on a machine without any GPU."""


def pick_device(wanted: str) -> torch.device:
    """The torch device for a name; `auto` is a GPU if there is one. Raises PluginError if the GPU does not exist.

    Warns (DualprocWarning, once) if `auto` is the CPU although an NVIDIA GPU seems to be present.
    """
    import torch

    start, several = first_gpu()
    if wanted == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        if reason := _why_unusable():
            _warn_about_unusable_gpu(reason)
        return torch.device("cpu")
    device = torch.device(wanted)
    if device.type != "cpu":
        count = getattr(torch, device.type).device_count()
        if (device.index or 0) >= count:
            reason = _why_unusable() if device.type == "cuda" and not count else ""
            raise PluginError(
                f"device: torch finds no {wanted} on this machine ({device.type} devices: {count})"
                + (f": {reason}" if reason else ""),
                hint="leave `device` out to use an available one, or install the torch build for this machine's GPU",
            )
    if several and device.type == "cuda":  # each process of a fit has GPUs of its own, counted from 0
        return torch.device("cuda", start + (device.index or 0))
    return device


def first_gpu() -> tuple[int, bool]:
    """The first of this process's CUDA GPUs, and whether other processes of the same fit use others.

    A launcher (`torchrun`, `accelerate launch`) starts L processes on a machine; with G GPUs, each has G / L of them.
    Raises PluginError if there are more processes than GPUs.
    """
    import torch

    local, count = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    gpus = torch.cuda.device_count() if count > 1 else 0
    if 0 < gpus < count:
        hint = f"start {gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        raise PluginError(f"{count} processes were started for {gpus} GPU{'s' if gpus > 1 else ''}", hint=hint)
    return local * (gpus // count), gpus > 0


def describe_device(device: torch.device) -> str:
    """A device with the name and memory of its GPU: `cuda:0 (NVIDIA H100 80GB HBM3, 85.0 GB)`, `cpu`."""
    import torch

    if device.type != "cuda":
        return str(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    card = torch.cuda.get_device_properties(index)
    return f"cuda:{index} ({card.name}, {card.total_memory / 1e9:.1f} GB)"


def _why_unusable() -> str:
    """Why torch cannot use an NVIDIA GPU that seems to be present; empty if none is, or if it is hidden on purpose."""
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return ""
    seen = NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None
    if torch.version.cuda is None:
        return "this torch is built without CUDA" if seen else ""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # `is_available` gives the reason only in a warning, and once per process
        reason = " ".join(str(error).split())
        return "" if reason.startswith(NOTHING_THERE) and not seen else reason
    return ""


@cache
def _warn_about_unusable_gpu(reason: str) -> None:
    """Warn, once for each reason."""
    warnings.warn(
        f"an NVIDIA GPU seems to be present, but torch cannot use it: {reason}\n"
        "  Models with `device: auto` run on the CPU. Update the GPU's driver, or install a torch built for it "
        "(https://pytorch.org/get-started/locally)\n"
        "  To use the CPU without this warning: --set generator.device=cpu, and the same for judge and referee",
        DualprocWarning,
        stacklevel=3,
    )


@contextmanager
def as_current(device: torch.device) -> Iterator[None]:
    """Within, a CUDA `device` is the current one: bitsandbytes loads quantised weights there, and some stay there."""
    import torch

    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


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

    With torch 2.11 on an H200, their backward pass ended in an illegal memory access for FLUX.1 with Qwen2.5-VL, and
    gave NaN for small FLUX.1 models in bfloat16.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        yield
