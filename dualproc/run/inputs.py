"""The spec as a run keeps it: with every value filled in and with copies of the files it names, so it is portable.

A file is kept under a name made from its content. So a resolved spec reveals nothing about the machine it comes from,
and two specs differ if the content of a file differs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dualproc.spec import TaskSpec, named_files, to_yaml, with_files

from .files import as_run_error

INPUTS = "inputs"


class Portable(NamedTuple):
    """A spec as a run folder keeps it."""

    text: str
    """The resolved spec, YAML; its paths are relative to the run folder."""
    files: Mapping[str, bytes]
    """Their content, by path."""


def portable(spec: TaskSpec) -> Portable:
    """The resolved spec with the files that it names; RunError if one of them cannot be read."""
    names, files = {}, {}
    for file in named_files(spec):
        with as_run_error("read", Path(file)):
            content = Path(file).read_bytes()
        names[file] = f"{INPUTS}/{hashlib.sha256(content).hexdigest()[:16]}{Path(file).suffix.lower()}"
        files[names[file]] = content
    return Portable(to_yaml(with_files(spec, names)), files)
