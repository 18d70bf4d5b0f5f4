"""How fast devices compute: the data sheets of GPUs, and this machine's own speed, measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from dualproc.errors import DualprocError
from dualproc.wording import nearest

SHARE = 0.5
"""The share of a device's matrix product speed that models reach: a rule of thumb."""


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet."""

    memory: float
    """In GB."""
    half: float
    """10^12 operations per second in bfloat16 or float16, dense, accumulated in float32."""
    single: float
    """The same in float32."""
    bus: float
    """10^9 bytes per second from page-locked main memory, measured on an H200 and estimated for others."""


GPUS: Mapping[str, Gpu] = {
    "h200": Gpu(141, 989, 67, 45), "h100": Gpu(80, 989, 67, 45), "a100": Gpu(80, 312, 19.5, 22),
    "a100-40gb": Gpu(40, 312, 19.5, 22), "l40s": Gpu(48, 362, 91.6, 22), "a6000": Gpu(48, 155, 38.7, 22),
    "5090": Gpu(32, 210, 105, 45), "4090": Gpu(24, 165, 82.6, 22), "3090": Gpu(24, 71, 35.6, 22),
    "l4": Gpu(24, 121, 30.3, 22), "v100": Gpu(32, 125, 15.7, 11), "t4": Gpu(16, 65, 8.1, 11),
}  # fmt: skip


def gpu_named(name: str) -> Gpu:
    """The data sheet of a GPU. Raises DualprocError for an unknown name."""
    found = GPUS.get(name.lower().removeprefix("rtx"))
    if found is None:
        raise DualprocError(f"unknown device {name!r}", hint=f"{nearest(name.lower(), GPUS)}; or leave `--device` out")
    return found


COMMON = GPUS["4090"]
"""The GPU that settings are chosen for if none is named."""


def seconds(operations: Mapping[str, int], gpu: Gpu | None, *, moved: int = 0) -> float:
    """An estimate of the time that operations take, by precision; on this machine if no GPU is given.

    Meanwhile, a GPU copies `moved` bytes from main memory.
    """
    total = 0.0
    for precision, count in operations.items():
        if gpu is None:
            rate = measured_rate(precision)
        else:
            rate = 1e12 * (gpu.single if precision in ("float32", "float64") else gpu.half)
        total += count / (rate * SHARE)
    return max(total, moved / (1e9 * gpu.bus)) if gpu else total


def measured_rate(precision: str, *, lasting: float = 0.5) -> float:
    """Operations per second of large matrix products on this machine, on its GPU if it has one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 512
    left = torch.randn(size, size, device=device).to(getattr(torch, precision))
    done, started = 0, 0.0
    for count in range(-3, 1_000_000):
        if count == 0:
            started = time.perf_counter()
        left @ left
        if device == "cuda":
            torch.cuda.synchronize()
        if count >= 0 and time.perf_counter() - started > lasting:
            done = count + 1
            break
    return 2 * size**3 * done / (time.perf_counter() - started)
