"""The files that a spec names besides other specs: every plugin's parameter `path`.

In a spec file such a path is relative to the file in which it stands, in `--set` and in a spec built in Python to the
current folder. Loading turns it into one that can be opened from the current folder, so plugins just open it. It must
not lead out of the folder that it is relative to: a stranger's spec reads nothing but what lies beside it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dualproc.errors import Problem

from .document import Node, Path, from_data, problem_at, split
from .merge import SET
from .models import TaskSpec
from .refs import plugin_places
from .template import placeholders

FILE = "path"
"""The parameter, of any plugin, that names a file."""


def located(document: Node) -> tuple[Node, list[Problem]]:
    """The document with paths that can be opened from the current folder, and what is wrong with those that cannot."""
    problems = []
    for path, written in _paths(document.plain()):
        node = document.nearest(path)[0]
        if placeholders(written):
            continue  # a mistake of its own
        try:
            file = _file(written, _folder(node.place.source))
        except _RefusedError as refused:
            message, hint = refused.args
            problems.append(problem_at(document, path, message, hint=hint))
        else:
            document = _with(document, path, file.as_posix())
    return document, problems


def named_files(spec: TaskSpec) -> tuple[str, ...]:
    """The paths of all files that a spec's plugins are given, each once, as they can be opened now."""
    return tuple(dict.fromkeys(file for _, file in _paths(spec.model_dump()) if pathlib.Path(file).is_file()))


def with_files(spec: TaskSpec, names: Mapping[str, str]) -> TaskSpec:
    """The spec with other paths for the files in `names`."""
    if not names:
        return spec
    document = from_data(spec)
    for path, file in _paths(document.plain()):
        document = _with(document, path, names.get(file, file))
    return TaskSpec.model_validate(document.plain())


class _RefusedError(Exception):
    """A path that is not to be opened: message and hint."""


def _paths(data: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Where plain data name files, and what they say there."""
    for place in plugin_places(data):
        if isinstance(file := place.params.get(FILE), str):
            yield (*split(place.path), FILE), file


def _folder(source: str | None) -> pathlib.Path:
    """What a path that was written in `source` is relative to."""
    return pathlib.Path() if source is None or source.startswith(SET) else pathlib.Path(source).parent


def _file(written: str, folder: pathlib.Path) -> pathlib.Path:
    where = "the current folder" if folder == pathlib.Path() else f"the folder {folder}"
    flavours = pathlib.PurePosixPath(written), pathlib.PureWindowsPath(written)
    if any(flavour.anchor or ".." in flavour.parts for flavour in flavours):
        raise _RefusedError(f"{written!r} may lead anywhere", f"give a path relative to {where}, without `..`")
    file = folder / written
    try:
        inside = file.resolve().is_relative_to(folder.resolve())
        exists = file.is_file()
    except (OSError, ValueError, RuntimeError):  # a null character; a loop of links
        raise _RefusedError(f"{written!r} is not the name of a file", None) from None
    if not inside:
        raise _RefusedError(f"{written!r} leads out of {where}", "put the file itself there, not a link to it")
    if not exists:
        raise _RefusedError(f"there is no file {file.as_posix()}", f"paths are relative to {where}")
    return file


def _with(node: Node, path: Path, value: str) -> Node:
    """The tree with another text at a path that it has."""
    if not path:
        return replace(node, value=value)
    child = node.child(path[0])
    assert child is not None
    changed = _with(child, path[1:], value)
    if isinstance(node.value, list):
        return replace(node, value=[changed if item is child else item for item in node.value])
    return node.with_child(str(path[0]), changed)
