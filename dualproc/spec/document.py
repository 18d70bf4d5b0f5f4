"""A spec as a tree of nodes; each node holds a value and the place where it was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from dualproc.errors import Problem, SpecError

Scalar = str | int | float | bool | None
KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead to a value."""
At = Literal["value", "key"]
"""Whether a problem points at the value or at the key of a mapping entry."""

MAX_DEPTH = 32
"""Maximum nesting depth of mappings and lists; a spec needs about six levels."""


@dataclass(frozen=True)
class Place:
    """Where a value was written: file (or `--set a.b`), line and column (counted from 1), and the text of the line."""

    source: str | None = None
    line: int | None = None
    column: int | None = None
    text: str | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line) if part is not None)

    def problem(self, message: str, path: str = "", hint: str | None = None) -> Problem:
        """A problem at this place; `path` is the dotted path of the value."""
        return Problem(message, path, self.source, self.line, self.column, self.text, hint)


@dataclass(frozen=True)
class Node:
    """A scalar, list or mapping, with the place of the value and, inside a mapping, the place of its key."""

    value: Scalar | list[Node] | dict[str, Node]
    place: Place = Place()
    key: Place | None = None

    def child(self, part: str | int) -> Node | None:
        """The value of a key, or the list item at an index; None if it does not exist."""
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list):
            index = int(part) if str(part).isdecimal() and len(str(part)) < 9 else -1
            return self.value[index] if 0 <= index < len(self.value) else None
        return None

    def nearest(self, path: KeyPath) -> tuple[Node, bool]:
        """The node at `path`, and True; if there is none, the deepest existing node on the way to it, and False."""
        node = self
        for part in path:
            child = node.child(part)
            if child is None:
                return node, False
            node = child
        return node, True

    def mapping(self, *path: str) -> dict[str, Node]:
        """The entries of the mapping at a path; empty if there is none."""
        node, found = self.nearest(path)
        return node.value if found and isinstance(node.value, dict) else {}

    def walk(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
        """Every node below this one with its path, in the order of the document."""
        items = enumerate(self.value) if isinstance(self.value, list) else ()
        for part, child in (*self.mapping().items(), *items):
            yield (*path, part), child
            yield from child.walk((*path, part))

    def plain(self) -> Any:
        """The values without places, as Python dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def with_node(self, path: KeyPath, new: Node) -> Node:
        """A copy with another node at `path`; only the last key may be a new one."""
        if not path:
            return new
        value = self.value
        assert isinstance(value, (dict, list))
        child = (self.child(path[0]) or new).with_node(path[1:], new)
        if isinstance(value, dict):
            return replace(self, value={**value, str(path[0]): child})
        return replace(self, value=[child if index == int(path[0]) else item for index, item in enumerate(value)])


def from_data(data: Any, place: Place = Place(), depth: int = 0) -> Node:
    """Convert Python values to a tree; all its nodes have one place.

    Raises SpecError if the values are nested more than `MAX_DEPTH` levels deep.
    """
    if depth > MAX_DEPTH:
        raise SpecError([Problem(f"values are nested more than {MAX_DEPTH} levels deep")])
    if isinstance(data, BaseModel):
        data = data.model_dump()
    if isinstance(data, Mapping):
        data = {str(key): from_data(value, place, depth + 1) for key, value in data.items()}
    elif isinstance(data, (list, tuple)):
        data = [from_data(value, place, depth + 1) for value in data]
    return Node(data, place, place)


def dotted(path: KeyPath) -> str:
    """A path in dotted form: `visual_prompt.layers.0.width`."""
    return ".".join(str(part) for part in path)


def split(path: str | KeyPath) -> KeyPath:
    """Split a dotted path into its parts; a tuple is returned unchanged."""
    return path if isinstance(path, tuple) else tuple(part for part in path.split(".") if part)


def problem_at(node: Node, path: str | KeyPath, message: str, *, hint: str | None = None, at: At = "value") -> Problem:
    """A problem at the value or the key of `path`; if the path does not exist, at the enclosing mapping."""
    path = split(path)
    target, found = node.nearest(path)
    place = target.key if target.key is not None and (at == "key" or not found) else target.place
    return place.problem(message, dotted(path), hint)
