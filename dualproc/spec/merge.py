"""`extends` and `--set`: laying one tree of values over another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dualproc.errors import Problem

from .document import KeyPath, Node, Place, Scalar, dotted
from .mistakes import show
from .reading import read_text, scalar

SET = "--set "
"""How the source of a value that `--set` gave begins."""


def merge(parent: Node, child: Node) -> Node:
    """The child over the parent: mappings key by key; lists and scalars as the child has them.

    Where a mapping's `type` differs, the parent's other keys belong to another plugin and are dropped.
    """
    if not (isinstance(parent.value, dict) and isinstance(child.value, dict)):
        return child
    old, new = parent.value, child.value
    if "type" in old and "type" in new and old["type"].value != new["type"].value:
        return child
    merged = {key: merge(old[key], value) if key in old else value for key, value in new.items()}
    return replace(child, value={**old, **merged})


def override(document: Node, texts: Sequence[str]) -> tuple[Node, list[Problem]]:
    """The document with every `a.b=value` set, from left to right, and what is wrong with those that cannot be."""
    problems = []
    for text in texts:
        name, equals, written = text.partition("=")
        path: KeyPath = tuple(name.strip().split("."))
        place = Place(f"{SET}{dotted(path)}", text=text)
        if not equals or "" in path:
            problems.append(_problem(place, f"`{text}` sets nothing", hint="write it as key.key=value"))
            continue
        if path == ("extends",):
            problems.append(_problem(place, "`extends` cannot be set from outside", hint="it belongs in a spec file"))
            continue
        value, mistakes = _value(written.strip(), place)
        problems += mistakes
        try:
            document = document if mistakes else _set(document, path, value)
        except _NoSuchPlaceError as error:
            problems.append(_problem(place, error.args[0], path=dotted(path)))
    return document, problems


class _NoSuchPlaceError(Exception):
    """The path of a `--set` leads through something that has no such key or item."""


def _problem(place: Place, message: str, *, path: str = "", hint: str | None = None) -> Problem:
    return Problem(message, path, place.source, text=place.text, hint=hint)


def _value(written: str, place: Place) -> tuple[Node, list[Problem]]:
    """What stands right of the `=`: a quoted text, a list or a mapping in YAML's flow style; else one bare word.

    A bare word is not parsed as YAML, so that `#ff0000` is no comment and `Is it: red?` no mapping.
    """
    if not written.startswith(('"', "'", "[", "{")):
        return Node(scalar(written), place, place), []
    wrapped, problems = read_text("value: " + written, place.source or "")
    value = wrapped.child("value") if wrapped else None
    problems = [_problem(place, problem.message, hint=problem.hint) for problem in problems]
    return (_placed(value, place) if value else Node(None, place)), problems


def _placed(node: Node, place: Place) -> Node:
    value: Scalar | list[Node] | dict[str, Node] = node.value
    if isinstance(value, dict):
        value = {key: _placed(child, place) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_placed(child, place) for child in value]
    return Node(value, place, place)


def _set(node: Node, path: KeyPath, new: Node) -> Node:
    if not path:
        return new
    part, rest = str(path[0]), path[1:]
    if isinstance(node.value, list):
        item = node.child(part)
        if item is None:
            raise _NoSuchPlaceError(f"there is no item {part}: the list has {len(node.value)}, counted from 0")
        items = list(node.value)
        items[int(part)] = _set(item, rest, new)
        return replace(node, value=items)
    if node.value is None:
        node = Node({}, new.place, node.key or new.place)
    if not isinstance(node.value, dict):
        raise _NoSuchPlaceError(f"there is no `{part}` to set: it would belong to {show(node.value)}")
    old = node.value.get(part)
    if part == "type" and not rest and old is not None and old.value != new.value:
        node = _only_set(node) or replace(node, value={})
    return node.with_child(part, _set(old or Node(None, new.place, new.place), rest, new))


def _only_set(node: Node) -> Node | None:
    """What earlier `--set` put into a tree; None if nothing of it."""
    if (node.place.source or "").startswith(SET):
        return node
    children = node.value.items() if isinstance(node.value, dict) else ()
    kept = {key: child for key, old in children if (child := _only_set(old)) is not None}
    return replace(node, value=kept) if kept else None
