"""The spec as a run keeps it: with every value filled in and with copies of the files it names, so it is portable.

A file is kept under a name made from its content. So a resolved spec reveals nothing about the machine it comes from,
and two specs differ if the content of a file differs. Models in folders are too large to copy: the resolved spec names
them relative to the run folder, so the run finds them from any folder, and a folder is never mistaken for a hub id.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dualproc.kit.files import MAX_TENSORS, read
from dualproc.spec import TaskSpec, named_files, named_models, to_yaml, with_files

from .files import as_run_error

INPUTS = "inputs"


class Portable(NamedTuple):
    """A spec as a run folder keeps it."""

    text: str
    """The resolved spec, YAML; its paths are relative to the run folder."""
    files: Mapping[str, bytes]
    """Their content, by path."""


def portable(spec: TaskSpec, folder: Path) -> Portable:
    """The spec as the run in `folder` keeps it, with the files that it names; RunError if one cannot be read."""
    names, files = {}, {}
    for file in named_files(spec):
        with as_run_error("read", Path(file)):
            content = read(Path(file), most=MAX_TENSORS)  # one of them may be a LoRA
        names[file] = f"{INPUTS}/{hashlib.sha256(content).hexdigest()[:16]}{Path(file).suffix.lower()}"
        files[names[file]] = content
    for model in named_models(spec):
        if not Path(model).is_absolute() and (model.startswith(_RELATIVE) or Path(model).is_dir()):
            names[model] = _relative(Path(model), folder)
    return Portable(to_yaml(with_files(spec, names)), files)


def opened(spec: TaskSpec, folder: Path) -> TaskSpec:
    """The spec of the run in `folder`, as `portable` wrote it, with paths that open from the current folder."""
    relative = [model for model in named_models(spec) if model.startswith(_RELATIVE)]
    return with_files(spec, {model: _relative(folder.resolve() / model, Path()) for model in relative})


_RELATIVE = ("./", "../")


def _relative(path: Path, folder: Path) -> str:
    """`path` relative to `folder`, starting with `./` or `../`; absolute if it is on another drive."""
    try:
        found = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.resolve().as_posix()
    return found if found.startswith("..") else f"./{found}"
