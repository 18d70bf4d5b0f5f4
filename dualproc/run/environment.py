"""The versions and the machine of a run, without names of users, hosts or folders."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from dualproc.kit.devices import NVIDIA_DRIVER, describe_device, free_memory

PACKAGES = ("dualproc", "torch", "diffusers", "transformers", "peft", "safetensors", "pillow")


Environment = dict[str, str | int | None]
"""Facts by name; None where the machine has no such thing."""


def environment() -> Environment:
    """Versions of Python and of the packages that affect a run's result, the platform, the number of CPUs, the GPUs.

    `gpu` has name and memory of each GPU that torch can use; `cuda` is the version that torch is built for, `driver`
    that of the NVIDIA driver. These three are None without such a GPU, `driver` also where it is unknown.
    """
    found: Environment = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    found |= {"platform": f"{platform.system()} {platform.machine()}", "cpu_count": os.cpu_count() or 1}
    return found | _gpus()


def _gpus() -> Environment:
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "cuda": None, "driver": None}
    cards = [describe_device(torch.device("cuda", index)) for index in range(torch.cuda.device_count())]
    return {"gpu": "; ".join(cards), "cuda": torch.version.cuda, "driver": _driver()}


def _driver() -> str | None:
    """The version of the NVIDIA driver; None if neither Linux nor nvidia-smi tells."""
    if NVIDIA_DRIVER.exists():
        text = NVIDIA_DRIVER.read_text(encoding="utf-8", errors="replace")
    elif program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
    else:
        return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def peak_memory() -> int | None:
    """Peak main memory of this process, in bytes; None where the system does not report it."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include the parent's memory at the time of the fork
        lines = status.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_gpu_memory() -> dict[str, int]:
    """Peak GPU memory of this process's tensors by device, in bytes, since the start or `reset_peak_gpu_memory`.

    {} if the process has not used an NVIDIA or AMD GPU.
    """
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return {}
    peaks = {f"cuda:{index}": torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())}
    return {device: peak for device, peak in peaks.items() if peak}


def reset_peak_gpu_memory() -> None:
    """Free what earlier models left, and forget their peaks: before another fit in the same process."""
    import torch

    free_memory()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)
