"""`{name}` placeholders: filled by the values of a variant when a spec is loaded, by the fields of a prompt later.

Only `{` + letters, digits, _ + `}` is a placeholder; all other braces are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from dualproc.errors import SpecError

from .document import KeyPath, Node, problem_at

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
MAX_FILLED = 1_000_000
"""Most characters and list items that a variant may put into a spec."""

SECTIONS: tuple[KeyPath, ...] = (
    ("description",), ("prompts", "template"), ("question",), ("preserve",), ("reward",), ("visual_prompt",),
    ("anchor",), ("scorers",),
)  # fmt: skip
"""Where a variant's values are filled in."""


def placeholders(text: str) -> list[str]:
    """The names of a text's placeholders, in order, without repetition."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def whole(text: str) -> str | None:
    """The name, if the text is one placeholder and nothing else."""
    match = _PLACEHOLDER.fullmatch(text)
    return match.group(1) if match else None


def leftover(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every placeholder in plain data, with the path of its text."""
    if isinstance(data, str):
        yield from ((path, name) for name in placeholders(data))
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from leftover(value, (*path, key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from leftover(value, (*path, index))


def fill_text(text: str, values: Mapping[str, Any]) -> str:
    """The text with every placeholder that `values` knows filled in; the others stay."""
    return _PLACEHOLDER.sub(lambda match: _words(values[match[1]]) if match[1] in values else match[0], text)


def fill(document: Node, values: Mapping[str, Node]) -> Node:
    """The document with a variant's values filled into its SECTIONS.

    A text that is nothing but a placeholder becomes the value itself, with the value's place.

    Raises:
        SpecError: more than MAX_FILLED characters would be put in.
    """
    filler = _Filler(values)
    for section in SECTIONS:
        document = filler.section(document, section)
    return document


class _Filler:
    def __init__(self, values: Mapping[str, Node]) -> None:
        self.values = values
        self.plain = {name: value.plain() for name, value in values.items()}
        self.sizes = {name: len(repr(value)) for name, value in self.plain.items()}
        self.room = MAX_FILLED

    def section(self, node: Node, path: KeyPath) -> Node:
        if not path:
            return self.filled(node)
        child = node.child(path[0])
        if child is None or not isinstance(node.value, dict):
            return node
        return node.with_child(str(path[0]), self.section(child, path[1:]))

    def filled(self, node: Node) -> Node:
        if isinstance(node.value, dict):
            return replace(node, value={key: self.filled(child) for key, child in node.value.items()})
        if isinstance(node.value, list):
            return replace(node, value=[self.filled(child) for child in node.value])
        if not isinstance(node.value, str) or "{" not in node.value:
            return node
        self.count(node)
        value = self.values.get(whole(node.value) or "")
        return replace(value, key=node.key) if value else replace(node, value=fill_text(node.value, self.plain))

    def count(self, node: Node) -> None:
        assert isinstance(node.value, str)
        self.room -= sum(self.sizes.get(name, 0) for name in _PLACEHOLDER.findall(node.value))
        if self.room < 0:
            raise SpecError([problem_at(node, (), f"the variant would put more than {MAX_FILLED} characters in")])


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
