"""Reading a spec file and the files that it extends."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dualproc.errors import Problem, SpecError
from dualproc.wording import nearest

from .document import Node, problem_at
from .merge import merge
from .mistakes import show
from .reading import read_text

MAX_BYTES = 1_000_000
SUFFIXES = (".yaml", ".yml", ".json")


class _RefusedError(Exception):
    """A file that cannot be read at all: message and hint."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def read_chain(path: Path) -> tuple[Node | None, list[Problem]]:
    """The document of a file, laid over the files that it extends; None if one of them cannot be read.

    Raises:
        SpecError: the file itself is missing, no file, too large or not readable.
    """
    try:
        document, problems = _read(path)
    except _RefusedError as refused:
        raise SpecError([Problem(refused.message, source=str(path), hint=refused.hint)]) from refused
    chain = [path]
    while document is not None and (link := document.child("extends")) is not None:
        try:
            chain.append(_parent(link, chain))
            parent, more = _read(chain[-1])
        except _RefusedError as refused:
            problem = problem_at(document, ("extends",), refused.message, hint=refused.hint)
            return None, [*problems, problem]
        problems += more
        document = merge(parent, _without_extends(document)) if parent else None
    return document, problems


def _without_extends(document: Node) -> Node:
    assert isinstance(document.value, dict)
    return replace(document, value={key: child for key, child in document.value.items() if key != "extends"})


def _parent(link: Node, chain: list[Path]) -> Path:
    """The file that the last file of a chain extends."""
    name = link.value
    if not isinstance(name, str):
        raise _RefusedError(f"expected the name of a spec file, found {show(link.plain())}")
    if "://" in name or Path(name).is_absolute():
        raise _RefusedError(f"{name!r} is not a file beside this one", "name it relative to this file")
    root = chain[0].parent
    parent = Path(os.path.normpath(chain[-1].parent / name))
    try:
        inside = parent.resolve().is_relative_to(root.resolve())
        again = any(parent.resolve() == file.resolve() for file in chain)
    except (OSError, ValueError, RuntimeError):  # a null character; a loop of links
        raise _RefusedError(f"{name!r} is not the name of a file") from None
    if not inside:
        raise _RefusedError(f"{name!r} lies outside the folder of the spec", f"put it into {root} or a folder below")
    if again:
        raise _RefusedError(
            "the files extend each other in a circle", " -> ".join(str(file) for file in [*chain, parent])
        )
    return parent


def _read(path: Path) -> tuple[Node | None, list[Problem]]:
    """The tree of one file and what is wrong in it.

    Raises:
        _RefusedError: it is missing, no file, too large, or not readable.
    """
    data = _bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"the file is not UTF-8 text (byte {data[error.start]:#04x})"
        return None, [Problem(message, source=str(path), line=line, hint="save it as UTF-8")]
    return read_text(text, str(path), is_json=path.suffix.lower() == ".json")


def _bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise _RefusedError("this is a folder, not a spec file", _specs_in(path))
        if not path.exists():
            raise _RefusedError("there is no such file", _similar(path))
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise _RefusedError(f"a spec is a file that ends in {', '.join(SUFFIXES)}")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _RefusedError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        raise _RefusedError(f"the file is larger than {MAX_BYTES // 1000} kB", "a spec holds text, no images")
    return data


def _specs_in(folder: Path) -> str | None:
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    return f"specs in it: {', '.join(names[:10])}" if names else None


def _similar(path: Path) -> str | None:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either"
    names = sorted(file.name for file in path.parent.iterdir() if file.suffix.lower() in SUFFIXES)
    return nearest(path.name, names[:1000]) if names else f"there is no spec in {path.parent}"
