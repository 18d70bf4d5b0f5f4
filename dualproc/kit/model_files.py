"""Checks of a third-party model's files before libraries read them: no special files, no kernels, no endless models."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dualproc.errors import PluginError

from .files import read

MAX_CONFIG = 16 * 2**20
"""Bytes of a configuration."""
MAX_LAYERS = 1000
"""Layers that a configuration may ask for: building the modules of a million takes minutes."""
_COUNT = re.compile(r"(n|num)_(\w+_)?(layers?|blocks?)|depths?|(\w+_)?layers_per_block")
"""Keys of numbers of layers."""
MAX_LABELS = 1_000_000
"""Names of classes that a configuration may ask for; transformers makes each one."""
_FETCHED = "deepgemm|eetq|fbgemm_fp8|finegrained_fp8|fp8|gguf|metal|mxfp4|mxfp8|nvfp4|sonicmoe"
"""Quantisations and implementations of experts for which transformers fetches kernels from repositories of its own."""
_KERNELS = (
    (re.compile(r".*implementation.*"), re.compile(rf"(?s:.*/.*)|{_FETCHED}")),
    (re.compile(r".*(kernel|backend).*"), re.compile(r"(?s:.*/.*)")),
    (re.compile(r"quant_method"), re.compile(_FETCHED)),
)
"""Keys of a configuration, at any depth, and their values that name kernels in a repository."""


def require_regular_files(what: str, model: str) -> None:
    """Raise PluginError if a model's folder has special files: libraries would wait for ever at a named pipe."""
    folder = Path(model)
    for file in (*folder.glob("*"), *folder.glob("*/*")) if folder.is_dir() else ():
        if file.exists() and not stat.S_ISREG(mode := file.stat().st_mode) and not stat.S_ISDIR(mode):
            raise PluginError(f"cannot load {what} {model!r}: {file} is not a regular file", hint="remove it")


def checked_config(read_json: Callable[..., Any], what: str, model: str) -> Any:
    """`read_json`, a library's own class method that reads a configuration, as one that first checks the file."""
    return classmethod(partial(_checked, read_json, what, model))


def _checked(read_json: Callable[..., Any], what: str, model: str, cls: Any, file: Any, **more: Any) -> Any:
    config = json.loads(read(Path(file), most=MAX_CONFIG))
    if fault := next(_faults(config), None):
        hint = f"use another model, or edit its {Path(file).name}"
        raise PluginError(f"cannot load {what} {model!r}: {fault}", hint=hint)
    return read_json(cls, file, **more)  # `more`: diffusers before 0.41 passes `dduf_entries`


def refuse_kernels(what: str, model: str, repository: object, *_: object, **__: object) -> None:
    """Stands in for the function of transformers that fetches kernels: raises PluginError with the reason."""
    raise PluginError(
        f"cannot load {what} {model!r}: it asks for kernels from the repository {str(repository)!r:.100},"
        " which are code",
        hint="dualproc never runs code from a repository; use another model, or install the package of the kernels",
    )


def _faults(value: Any, key: str = "") -> Iterator[str]:
    """What a configuration must not ask for. In a mapping below a key that names kernels, every key does so."""
    names_kernels = key == "use_kernels" and value is True
    if isinstance(value, str):
        names_kernels = any(keys.fullmatch(key) and values.fullmatch(value.lower()) for keys, values in _KERNELS)
    if names_kernels:
        yield f"its `{key}` is {value!r:.100}: kernels from a repository are code, which dualproc never runs"
    if isinstance(value, int) and value > MAX_LAYERS and _COUNT.fullmatch(key):
        yield f"its `{key}` asks for {value:,} layers, expected at most {MAX_LAYERS:,}"
    if isinstance(value, int) and value > MAX_LABELS and key == "num_labels":
        yield f"its `{key}` is {value:,}, expected at most {MAX_LABELS:,}"
    if isinstance(value, list):
        if len(value) > MAX_LAYERS and ("block" in key or "layer" in key):
            yield f"its `{key}` asks for {len(value):,} layers, expected at most {MAX_LAYERS:,}"
        for item in value:
            yield from _faults(item, key)
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _faults(item, key if re.search("implementation|kernel|backend", key) else name)
