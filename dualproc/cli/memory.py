"""Whether a spec fits into the memory of this machine's GPUs, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError
from dualproc.wording import number

from .output import print_progress, print_warning

if TYPE_CHECKING:
    from dualproc.plan.dry_run import Observed
    from dualproc.plan.hardware import Gpu
    from dualproc.spec import TaskSpec

MARGIN = 0.93
"""The share of a GPU's free memory that tensors may take; the rest is for the driver, workspaces and fragmentation."""


class Fit(str, Enum):
    """What `dp run` does about a spec that does not fit into GPU memory."""

    check = "check"
    auto = "auto"
    off = "off"


def gpus() -> dict[str, Callable[[], float]]:
    """For each CUDA GPU, a function that says how many bytes tensors may take there; empty without a GPU.

    To be called for the GPUs in use only: it takes memory of the GPU, and fails if the GPU is reserved for a process.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    return {f"cuda:{n}": partial(_free, n) for n in range(torch.cuda.device_count())}


def _free(index: int) -> float:
    import torch

    return torch.cuda.mem_get_info(index)[0] * MARGIN


def _card(device: str) -> Gpu:
    """The data sheet of a GPU of this machine; that of a common one if it is not known."""
    import torch

    from dualproc.plan.hardware import COMMON, GPUS

    name = torch.cuda.get_device_name(device).lower() if torch.cuda.is_available() else ""
    return next((card for known, card in GPUS.items() if known in name), COMMON)


def share(spec: TaskSpec, processes: int) -> TaskSpec:
    """The spec with the largest share of the batch that one of the processes has."""
    from dualproc.engine.distributed import Processes

    largest = max(
        sum(part.stop - part.start for part in Processes(rank, processes).parts(spec.train.batch, 1))
        for rank in range(processes)
    )
    return spec.model_copy(update={"train": spec.train.model_copy(update={"batch": largest})})


def settings_that_fit(
    spec: TaskSpec,
    gpus: Mapping[str, Callable[[], float]],
    mode: Fit,
    *,
    known: dict[str, Observed] | None = None,
) -> list[str]:
    """Overrides, as for `--set`, that make a spec fit into the memory of `gpus`; empty if it fits as it is.

    `gpus` has a function for the free bytes of each GPU, by device; `known` as in `dry_run`.

    Raises DualprocError, with the settings, if some are needed and `mode` is `check`, or if none help.
    """
    if mode is Fit.off or not gpus:
        return []
    from .progress import quiet

    quiet()
    from dualproc.plan.dry_run import dry_run
    from dualproc.plan.switches import search

    print_progress("checking whether training fits into GPU memory (--fit off skips this)")
    known = {} if known is None else known
    try:
        plan = dry_run(spec, gpu=True, known=known)
    except DualprocError as error:  # what cannot be planned may still train
        print_warning(f"memory was not checked: {error.message}")
        return []
    used = {device: memory.peak for device, memory in plan.devices.items() if device in gpus}
    free = {device: gpus[device]() for device in used}
    over = [
        f"{device} needs {number(peak / 1e9)} GB, and has {number(free[device] / 1e9)} GB free"
        for device, peak in used.items()
        if peak > free[device]
    ]
    if not over:
        return []
    limit = min(free.values())
    card = _card(next(iter(used)))
    found = search(spec, plan, limit, gpu=True, card=card, known=known, progress=print_progress).together
    message = f"{spec.label} does not fit into GPU memory: {'; '.join(over)}"
    if found is None or found.plan is None:
        hint = "no combination of settings was found that fits (see `dp plan`); `--fit off` tries it all the same"
        raise DualprocError(message, hint=hint)
    if mode is Fit.check:
        advice = [f"add {found.flags}", "or let `--fit auto` set them", *found.plan.notes]
        raise DualprocError(message, hint="\n  ".join(advice))
    print_warning("\n  ".join([f"{message}; using {found.flags}", *found.plan.notes]))
    return found.flags.replace("--set ", "").split(" ")
