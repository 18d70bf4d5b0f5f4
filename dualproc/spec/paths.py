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

from .document import KeyPath, Node, from_data, problem_at, split
from .merge import SET
from .models import TaskSpec
from .refs import plugin_places
from .template import placeholders

FILE = "path"
"""The parameter, of any plugin, that names a file."""


def located(document: Node) -> tuple[Node, list[Problem]]:
    """The document with paths that can be opened from the current folder, and what is wrong with those that cannot."""
    problems, openable = [], {}
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
            openable[path] = file.as_posix()
    return _with(document, openable) if openable else document, problems


def named_files(spec: TaskSpec) -> tuple[str, ...]:
    """The paths of all files that a spec's plugins are given, each once, as they can be opened now."""
    return tuple(dict.fromkeys(file for _, file in _paths(spec.model_dump()) if pathlib.Path(file).is_file()))


def with_files(spec: TaskSpec, names: Mapping[str, str]) -> TaskSpec:
    """The spec with other paths for the files in `names`."""
    if not names:
        return spec
    document = from_data(spec)
    changes = {path: names.get(file, file) for path, file in _paths(document.plain())}
    return TaskSpec.model_validate(_with(document, changes).plain())


class _RefusedError(Exception):
    """A path that is not to be opened: message and hint."""


def _paths(data: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
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


def _with(node: Node, texts: Mapping[KeyPath, str], path: KeyPath = ()) -> Node:
    """The tree with other texts at some paths, whose parts are all written as text."""
    if path in texts:
        return replace(node, value=texts[path])
    if isinstance(node.value, dict):
        return replace(node, value={key: _with(child, texts, (*path, key)) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[_with(child, texts, (*path, str(i))) for i, child in enumerate(node.value)])
    return node
