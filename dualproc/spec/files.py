"""Read a spec file and the files that it extends."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from dualproc.errors import DualprocError, Problem, SpecError
from dualproc.kit.files import opened
from dualproc.wording import nearest

from .document import Node, problem_at
from .merge import merge
from .mistakes import show
from .reading import read_text
from .shipped import hint_for_missing

MAX_BYTES = 1_000_000
MAX_CHAIN = 16
"""Files in a chain of `extends`."""
SUFFIXES = (".yaml", ".yml", ".json")


def read_chain(path: Path, text: str | None = None) -> tuple[Node | None, list[Problem]]:
    """The document of a file, merged over the files that it extends, and the problems of all of them.

    With `text`, the file itself is not read, and need not exist: this is its content. The document is None if one of
    the files cannot be read. Raises SpecError if the file itself is missing, not a regular file, too large or not
    readable.
    """
    try:
        document, problems = _read(path) if text is None else _parsed(path, text)
    except DualprocError as error:
        hint = error.hint if os.path.exists(path) else hint_for_missing(path) or error.hint
        raise SpecError([Problem(error.message, source=str(path), hint=hint)]) from error
    chain = [path]
    while document is not None and (link := document.child("extends")) is not None:
        try:
            if len(chain) > MAX_CHAIN:
                raise DualprocError(f"more than {MAX_CHAIN} files extend each other", hint="merge some of them")
            chain.append(_parent_path(link, chain))
            parent, more = _read(chain[-1])
        except DualprocError as error:
            return None, [*problems, problem_at(document, "extends", error.message, hint=error.hint)]
        problems += more
        assert isinstance(document.value, dict)
        own = {key: child for key, child in document.value.items() if key != "extends"}
        document = merge(parent, replace(document, value=own)) if parent else None
    return document, problems


def _parent_path(link: Node, chain: list[Path]) -> Path:
    """The path of the file that the last file of `chain` extends.

    Raises DualprocError if the path is absolute, leaves the folder of the spec, or is already in `chain`.
    """
    name = link.value
    if not isinstance(name, str):
        raise DualprocError(f"expected the name of a spec file, found {show(link.plain())}")
    if "://" in name or Path(name).is_absolute():
        hint = "write a path relative to this file, such as base.yaml"
        raise DualprocError(f"{name!r} is not a relative path", hint=hint)
    root = chain[0].parent
    parent = Path(os.path.normpath(chain[-1].parent / name))
    try:
        inside = parent.resolve().is_relative_to(root.resolve())
        repeated = any(parent.resolve() == file.resolve() for file in chain)
    except (OSError, ValueError, RuntimeError):  # a null character; a loop of links
        raise DualprocError(f"{name!r} is not a valid file name") from None
    if not inside:
        raise DualprocError(f"{name!r} is outside the folder of the spec", hint=f"move it into {root} or a subfolder")
    if repeated:
        raise DualprocError("the files extend each other in a cycle", hint=" -> ".join(map(str, [*chain, parent])))
    return parent


def _read(path: Path) -> tuple[Node | None, list[Problem]]:
    """The tree of one file and its problems; the tree is None if the text cannot be parsed.

    Raises DualprocError if the file is missing, not a regular file, too large or not readable.
    """
    data = _read_bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        message = f"the file is not UTF-8 text (byte {data[error.start]:#04x})"
        return None, [Problem(message, source=str(path), line=line, hint="save it as UTF-8")]
    return read_text(text, str(path), is_json=path.suffix.lower() == ".json")


def _parsed(path: Path, text: str) -> tuple[Node | None, list[Problem]]:
    """The tree of a file's text, and its problems. Raises DualprocError if the text is too large."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise DualprocError(f"the spec is larger than {MAX_BYTES // 1000} kB", hint="a spec contains only text")
    return read_text(text, str(path), is_json=path.suffix.lower() == ".json")


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise DualprocError("this is a folder, not a spec file", hint=_other_specs(path))
        if not path.exists():
            raise DualprocError("no such file", hint=_other_specs(path))
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise DualprocError(f"expected a regular file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        with opened(path, most=2**63) as file:  # larger ones get the message below
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DualprocError(f"the file cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MAX_BYTES:
        hint = "a spec contains only text; store images in separate files"
        raise DualprocError(f"the file is larger than {MAX_BYTES // 1000} kB", hint=hint)
    return data


def _other_specs(path: Path) -> str | None:
    """A hint for a folder or a missing file: the specs that exist there."""
    folder = path if path.is_dir() else path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if folder == path:
        return f"specs in this folder: {', '.join(names[:10])}" if names else None
    if names:
        return nearest(path.name, names[:1000])
    return f"there is no spec in {folder}; `dp specs` lists the shipped specs"
