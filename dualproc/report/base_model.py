"""The name of a run's base generator, for model cards and file headers: it must not name a path of this machine."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PATH = re.compile(r"[/.~\\]|[A-Za-z]:")


def shipped(model: str) -> str:
    """The place in the package of a model that dualproc ships, `weights/generator`; empty for any other model."""
    package = Path(__file__).resolve().parents[1]
    inside = Path(model).is_absolute() and Path(model).is_relative_to(package)
    return Path(model).relative_to(package).as_posix() if inside else ""


def is_folder(model: str) -> bool:
    """Whether a model is loaded from a folder: `from_pretrained`, too, prefers a folder to a hub id of that name."""
    return bool(_PATH.match(model)) or Path(model).is_dir()


def hub_id(model: str) -> str | None:
    """The model's id on the hub; None if it is not from there."""
    return model if _HUB_ID.fullmatch(model) and not is_folder(model) else None


def base_name(model: str) -> str:
    """A hub id as it is, the name of a folder without the folders above it, `dualproc/...` for a shipped model."""
    if inside := shipped(model):
        return f"dualproc/{inside}"
    if is_folder(model):
        return re.split(r"[/\\]", str(Path(model).expanduser().resolve()).rstrip("/\\"))[-1]
    return " ".join(model.split())
