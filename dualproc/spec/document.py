"""A spec as a tree of values that know where they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from dualproc.errors import Problem, SpecError

Scalar = str | int | float | bool | None
KeyPath = tuple[str | int, ...]
"""The keys and indices that lead to a value."""
At = Literal["value", "key"]
"""The part of a mapping's entry that a problem points at."""

MAX_DEPTH = 32
"""How deep mappings and lists may nest; a spec needs about six."""


@dataclass(frozen=True)
class Place:
    """Where something was written: file (or `--set a.b`), line and column counted from 1, the line itself."""

    source: str | None = None
    line: int | None = None
    column: int | None = None
    text: str | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.source, self.line) if part is not None)


@dataclass(frozen=True)
class Node:
    """A scalar, a list or a mapping, with the place of its value and, in a mapping, of its key."""

    value: Scalar | list[Node] | dict[str, Node]
    place: Place = Place()
    key: Place | None = None

    def child(self, part: str | int) -> Node | None:
        """The value of a key, or the list item of an index; None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(part))
        if isinstance(self.value, list):
            index = int(part) if str(part).isdecimal() and len(str(part)) < 9 else -1
            return self.value[index] if 0 <= index < len(self.value) else None
        return None

    def nearest(self, path: KeyPath) -> tuple[Node, bool]:
        """The node at `path`, or the deepest one on the way to it; True if it is the one asked for."""
        node = self
        for part in path:
            child = node.child(part)
            if child is None:
                return node, False
            node = child
        return node, True

    def walk(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
        """Every node below this one, with its path, in order."""
        children: Iterator[tuple[str | int, Node]] = iter(())
        if isinstance(self.value, dict):
            children = iter(self.value.items())
        elif isinstance(self.value, list):
            children = iter(enumerate(self.value))
        for part, child in children:
            yield (*path, part), child
            yield from child.walk((*path, part))

    def plain(self) -> Any:
        """The values alone, as Python mappings, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def with_child(self, key: str, child: Node) -> Node:
        """This mapping with one value set."""
        assert isinstance(self.value, dict)
        return replace(self, value={**self.value, key: child})


def from_data(data: Any, depth: int = 0) -> Node:
    """Python values as a tree without places.

    Raises:
        SpecError: the values nest deeper than `MAX_DEPTH`.
    """
    if depth > MAX_DEPTH:
        raise SpecError([Problem(f"values are nested more than {MAX_DEPTH} deep")])
    if isinstance(data, BaseModel):
        data = data.model_dump()
    if isinstance(data, Mapping):
        return Node({str(key): from_data(value, depth + 1) for key, value in data.items()})
    if isinstance(data, (list, tuple)):
        return Node([from_data(value, depth + 1) for value in data])
    return Node(data)


def dotted(path: KeyPath) -> str:
    """A path as people write it: `visual_prompt.layers.0.width`."""
    return ".".join(str(part) for part in path)


def split(path: str | KeyPath) -> KeyPath:
    """The parts of a dotted path; a tuple stays as it is."""
    return path if isinstance(path, tuple) else tuple(part for part in path.split(".") if part)


def problem_at(node: Node, path: KeyPath, message: str, *, hint: str | None = None, at: At = "value") -> Problem:
    """A problem placed at the value or the `key` of a path; at the enclosing mapping where the path is missing."""
    target, found = node.nearest(path)
    place = target.key if target.key is not None and (at == "key" or not found) else target.place
    return Problem(message, dotted(path), place.source, place.line, place.column, place.text, hint)
