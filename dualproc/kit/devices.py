"""Which device a model computes on: the parameter type, and the torch device that a name stands for."""

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
                hint="leave `device` out to use an available one, or install the torch build for this machine's GPU",
            )
    return device
