"""Where models compute: the names of devices in a spec, and which device a name is."""

from __future__ import annotations

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
    """`auto` is a GPU where there is one. Raises PluginError for a GPU that is not there."""
    import torch

    if wanted == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    device = torch.device(wanted)
    if device.type != "cpu":
        count = getattr(torch, device.type).device_count()
        if (device.index or 0) >= count:
            seen = f"{count} of its kind" if count else "none of its kind"
            raise PluginError(
                f"device: there is no {wanted} here; torch sees {seen}",
                hint="leave device out to take what there is, or install torch for the GPU that this machine has",
            )
    return device
