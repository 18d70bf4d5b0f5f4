"""How fast devices compute: known GPUs as data, and this machine's own by measuring."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from dualproc.errors import DualprocError

SHARE = 0.5
"""What models reach of the rate at which a device multiplies large matrices: a rule of thumb."""


@dataclass(frozen=True)
class Device:
    """A GPU by its data sheet."""

    memory: float
    """In GB."""
    half: float
    """10^12 operations a second in bfloat16 or float16, dense, accumulated in float32."""
    single: float
    """The same in float32."""


DEVICES: Mapping[str, Device] = {
    "h200": Device(141, 989, 67), "h100": Device(80, 989, 67), "a100": Device(80, 312, 19.5),
    "a100-40gb": Device(40, 312, 19.5), "l40s": Device(48, 362, 91.6), "a6000": Device(48, 155, 38.7),
    "5090": Device(32, 210, 105), "4090": Device(24, 165, 82.6), "3090": Device(24, 71, 35.6),
    "l4": Device(24, 121, 30.3), "v100": Device(32, 125, 15.7), "t4": Device(16, 65, 8.1),
}  # fmt: skip


def known(name: str) -> Device:
    """Raises DualprocError for an unknown name."""
    found = DEVICES.get(name.lower().removeprefix("rtx"))
    if found is None:
        raise DualprocError(f"unknown device {name!r}", hint=f"one of {', '.join(DEVICES)}; or leave it out")
    return found


def seconds(operations: Mapping[str, int], device: Device | None) -> float:
    """A guess at the time that operations take, by precision; on this machine if no device is given."""
    total = 0.0
    for precision, count in operations.items():
        if device is None:
            rate = measured_rate(precision)
        else:
            rate = 1e12 * (device.single if precision in ("float32", "float64") else device.half)
        total += count / (rate * SHARE)
    return total


def measured_rate(precision: str, *, lasting: float = 0.5) -> float:
    """Operations a second of a product of large matrices on this machine, its GPU if it has one."""
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
