"""`{name}` placeholders: a variant fills them when a spec is loaded; sliders and the fields of a prompt, later.

Only a name of letters, digits and `_` in braces is a placeholder; all other braces are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from dualproc.errors import SpecError

from .document import KeyPath, Node, problem_at

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SINGLE_BRACE = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?![A-Za-z0-9_}])|(?<![A-Za-z0-9_{])[A-Za-z_][A-Za-z0-9_]*\}")
MAX_FILLED = 1_000_000
"""Maximum number of characters that a variant may add to a spec."""

SECTIONS: tuple[KeyPath, ...] = (
    ("description",), ("prompts", "template"), ("question",), ("preserve",), ("reward",), ("visual_prompt",),
    ("anchor",), ("scorers",),
)  # fmt: skip
"""The parts of a spec in which a variant's values are filled in."""


def defined_names(document: Node) -> frozenset[str]:
    """All placeholder names that any variant gives a value."""
    return frozenset(name for variant in document.mapping("variants") for name in document.mapping("variants", variant))


def slider_names(document: Node) -> frozenset[str]:
    """The names of the sliders: placeholders that are filled in after loading."""
    return frozenset(document.mapping("sliders"))


def placeholders(text: str) -> list[str]:
    """The names of the placeholders in a text, in order, without duplicates."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def sole_placeholder(text: str) -> str | None:
    """The placeholder's name if the text is exactly one placeholder; otherwise None."""
    match = _PLACEHOLDER.fullmatch(text)
    return match.group(1) if match else None


def single_braces(text: str, known: Collection[str]) -> list[str]:
    """Placeholders of known names with only one brace, as written: `{name` or `name}`; without duplicates."""
    return [found for found in dict.fromkeys(_SINGLE_BRACE.findall(text)) if found.strip("{}") in known]


def find_placeholders(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Every placeholder in plain data: the path of the text that contains it, and its name."""
    if isinstance(data, str):
        yield from ((path, name) for name in placeholders(data))
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from find_placeholders(value, (*path, key))
    elif isinstance(data, (list, tuple)):
        for index, value in enumerate(data):
            yield from find_placeholders(value, (*path, index))


def fill_text(text: str, values: Mapping[str, Any]) -> str:
    """Fill in every placeholder that has a value in `values`; the others stay unchanged."""
    return _PLACEHOLDER.sub(lambda match: _words(values[match[1]]) if match[1] in values else match[0], text)


def fill(document: Node, values: Mapping[str, Node]) -> Node:
    """Fill a variant's values into the SECTIONS of a document.

    A text that is exactly one placeholder becomes the value itself, with its type and place. Raises SpecError if the
    values would add more than MAX_FILLED characters.
    """
    plain = {name: value.plain() for name, value in values.items()}
    sizes = {name: len(repr(value)) for name, value in plain.items()}
    remaining = MAX_FILLED

    def filled(node: Node) -> Node:
        nonlocal remaining
        if isinstance(node.value, dict):
            return replace(node, value={key: filled(child) for key, child in node.value.items()})
        if isinstance(node.value, list):
            return replace(node, value=[filled(child) for child in node.value])
        if not isinstance(node.value, str) or "{" not in node.value:
            return node
        remaining -= sum(sizes.get(name, 0) for name in _PLACEHOLDER.findall(node.value))
        if remaining < 0:
            raise SpecError([problem_at(node, (), f"the variant's values would add more than {MAX_FILLED} characters")])
        value = values.get(sole_placeholder(node.value) or "")
        return replace(value, key=node.key) if value else replace(node, value=fill_text(node.value, plain))

    for section in SECTIONS:
        node, found = document.nearest(section)
        document = document.with_node(section, filled(node)) if found else document
    return document


def _words(value: Any) -> str:
    """A value inside a longer text: `0.5`, `true`, `red, blue`."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
