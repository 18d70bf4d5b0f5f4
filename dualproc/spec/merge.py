"""`extends` and `--set`: merge one tree of values over another, and set single values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dualproc.errors import DualprocError, Problem
from dualproc.wording import plural

from .document import MAX_DEPTH, KeyPath, Node, Place, dotted, from_data
from .mistakes import show
from .reading import read_text, scalar

SET = "--set "
"""Prefix of `Place.source` for values set with `--set`."""


def merge(parent: Node, child: Node) -> Node:
    """Merge the child over the parent: mappings key by key; a list or scalar of the child replaces the parent's.

    If a mapping's `type` differs, the parent's other keys belong to another plugin and are dropped.
    """
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return child
    old, new = parent.value, child.value
    if "type" in old and "type" in new and old["type"].value != new["type"].value:
        return child
    merged = {key: merge(old[key], value) if key in old else value for key, value in new.items()}
    return replace(child, value={**old, **merged})


def override(document: Node, texts: Sequence[str]) -> tuple[Node, list[Problem]]:
    """Set every `a.b=value` in `texts`, from left to right; return the document and the problems."""
    problems = []
    for text in texts:
        name, equals, written = text.partition("=")
        path: KeyPath = tuple(name.strip().split("."))
        place = Place(f"{SET}{dotted(path)[:200]}", text=text)
        if len(path) > MAX_DEPTH:
            problems.append(place.problem(f"values are nested at most {MAX_DEPTH} levels deep, got {len(path)} names"))
            continue
        if not equals or "" in path:
            problems.append(place.problem(f"expected KEY=VALUE, got `{text}`", hint="for example train.steps=50"))
            continue
        if path == ("extends",):
            problems.append(place.problem("`extends` cannot be set with `--set`", hint="write it in the spec file"))
            continue
        value, mistakes = _parse_value(written.strip(), place)
        problems += mistakes
        try:
            document = document if mistakes else _set_value(document, path, value)
        except DualprocError as error:
            problems.append(place.problem(error.message, path=dotted(path)))
    return document, problems


def _parse_value(written: str, place: Place) -> tuple[Node, list[Problem]]:
    """Parse the text after `=`: a quoted string, a list or a mapping in YAML's flow style, or else one scalar.

    A scalar is not parsed as YAML, so `#ff0000` is not a comment and `Is it: red?` is not a mapping.
    """
    if not written.startswith(('"', "'", "[", "{")):
        return Node(scalar(written), place, place), []
    wrapped, problems = read_text("value: " + written, place.source or "")
    value = wrapped.child("value") if wrapped else None
    problems = [place.problem(problem.message, hint=problem.hint) for problem in problems]
    return from_data(value.plain() if value else None, place), problems


def _set_value(node: Node, path: KeyPath, new: Node) -> Node:
    """The tree with `new` at `path`; a changed `type` drops the file's parameters and keeps those set with `--set`.

    Raises DualprocError if the path passes through a value that cannot have such a key or item.
    """
    if not path:
        return new
    part, rest = str(path[0]), path[1:]
    old = node.child(part)
    if isinstance(node.value, list) and old is None:
        count = plural(len(node.value), "item")
        raise DualprocError(f"there is no item {part}: the list has {count}, counted from 0")
    if node.value is None:
        node = Node({}, new.place, node.key or new.place)
    if not isinstance(node.value, (dict, list)):
        raise DualprocError(f"`{part}` cannot be set inside {show(node.value)}")
    if part == "type" and not rest and old is not None and old.value != new.value:
        node = _only_overrides(node) or replace(node, value={})
    return node.with_node((part,), _set_value(old or Node(None, new.place, new.place), rest, new))


def _only_overrides(node: Node) -> Node | None:
    """The part of a tree that earlier `--set` options set; None if there is none."""
    if (node.place.source or "").startswith(SET):
        return node
    kept = {key: child for key, old in node.mapping().items() if (child := _only_overrides(old)) is not None}
    return replace(node, value=kept) if kept else None
