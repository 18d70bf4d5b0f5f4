"""Checkpoints: tensors as safetensors, everything else as JSON, written to a temporary folder, then renamed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dualproc.errors import DamageError, RunError
from dualproc.kit.files import MAX_TENSORS, read

from .files import ASIDE, as_run_error, remove, sync, write_plainly

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2
"""Number of checkpoints that are kept: the newest, and one more in case the newest is damaged."""

_PREFIX = "checkpoint-"
_TENSORS, _STATE = "tensors.safetensors", "state.json"


class Checkpoint(NamedTuple):
    """The state of a fit after `step` training steps."""

    step: int
    tensors: dict[str, Tensor]
    """On the CPU."""
    state: dict[str, Any]
    """From JSON: tuples have become lists."""


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write `folder/checkpoint-<step>` and delete all but the newest two.

    A crash at any moment leaves the earlier checkpoints intact. Raises RunError if it cannot be written.
    """
    from safetensors.torch import save

    aside, final = folder / f"{ASIDE}new-{_PREFIX}{step}", folder / f"{_PREFIX}{step}"
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    content = save(copies)
    contents = {_TENSORS: content, _STATE: json.dumps({"sha256": _sum(content, state), "state": state}).encode()}
    remove(aside)
    try:
        with as_run_error("write", final):
            aside.mkdir(parents=True)
            for name, content in contents.items():
                write_plainly(aside / name, content)
            sync(aside)
            remove(final)
            aside.rename(final)
            sync(folder)
    except BaseException:  # on a full disk, a useless folder must not take space
        with suppress(RunError):
            remove(aside)
        raise
    for old in steps(folder)[:-KEPT]:
        remove(folder / f"{_PREFIX}{old}")
    return final


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, None if there is none.

    Raises RunError if it is damaged: continuing silently from an older one would hide the problem.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    found = steps(folder)
    if not found:
        return None
    path = folder / f"{_PREFIX}{found[-1]}"
    try:
        content = read(path / _TENSORS, most=MAX_TENSORS)
        state = json.loads(read(path / _STATE))
        if "sha256" in state:  # not in those of earlier versions
            known, state = state["sha256"], state["state"]
            if known != _sum(content, state):
                raise ValueError("it has changed since it was written (its checksum differs)")
        tensors = load(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        instead = f"continue from {_PREFIX}{found[-2]}" if len(found) > 1 else "start from the beginning"
        raise DamageError(f"{path} is damaged: {error}", hint=f"delete that folder to {instead}") from error
    return Checkpoint(found[-1], tensors, state)


def _sum(tensors: bytes, state: Mapping[str, Any]) -> str:
    """The SHA-256 of a checkpoint: a flipped bit would continue the fit from other weights."""
    return hashlib.sha256(tensors + json.dumps(state).encode()).hexdigest()


def steps(folder: Path) -> list[int]:
    """The steps that have checkpoints, in order."""
    names = [path.name.removeprefix(_PREFIX) for path in folder.glob(f"{_PREFIX}*")]
    return sorted(int(name) for name in names if name.isdecimal())
