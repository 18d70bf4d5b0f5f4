"""Train a LoRA for an image generator by asking a vision-language model about its images, from one YAML file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import Engine as Engine
    from .resolve import load_spec as load_spec
    from .spec import TaskSpec as TaskSpec

__version__ = "0.1.0"
__all__ = ["Engine", "TaskSpec", "load_spec"]

_HOME = {"Engine": "engine", "TaskSpec": "spec", "load_spec": "resolve"}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import dualproc` loads neither torch nor pydantic."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
