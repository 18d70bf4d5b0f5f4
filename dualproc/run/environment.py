"""The versions and the machine of a run, without names of users, hosts or folders."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("dualproc", "torch", "diffusers", "transformers", "peft", "safetensors", "pillow")


def environment() -> dict[str, str | int]:
    """Versions of Python and of the packages that affect a run's result, the platform and the number of CPUs."""
    found: dict[str, str | int] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    return found | {"platform": f"{platform.system()} {platform.machine()}", "cpu_count": os.cpu_count() or 1}


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
