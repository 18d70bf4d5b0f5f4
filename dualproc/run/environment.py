"""What a run was made with: versions and machine, but no names of users, hosts or folders."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dualproc", "torch", "diffusers", "transformers", "peft", "safetensors", "pillow")


def environment() -> dict[str, str | int]:
    """Versions of Python and of the packages that decide a run's result, the platform and the number of CPUs."""
    found: dict[str, str | int] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"platform": f"{platform.system()} {platform.machine()}", "cpu_count": os.cpu_count() or 1}
