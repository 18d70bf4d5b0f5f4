"""Change single values in the text of a spec; comments and everything else stay as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from dualproc.errors import DualprocError

from .document import KeyPath, dotted
from .reading import read_text
from .writing import Dumper

_WIDTH = 112
"""Lists are wrapped to about this many columns."""


class _Flow(Dumper):
    """Everything in YAML's flow style, on one line."""


_Flow.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def edited(text: str, path: KeyPath, value: Any) -> str:
    """The text of a spec (YAML) with `value` (plain data) at `path`; keys that do not exist are added.

    Raises DualprocError if the text cannot be parsed, or `path` leads through a value that has no such key.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DualprocError("the spec cannot be edited until its YAML is valid") from error
    if root is None:
        changed = f"{text.rstrip()}\n{_entry(path, value)}\n".lstrip("\n")
    elif isinstance(root, yaml.MappingNode):
        changed = _edited(text, root, path, value)
    else:
        raise DualprocError("the spec cannot be edited: it is not a mapping of keys to values")
    document, _ = read_text(changed, "")
    found, exists = document.nearest(path) if document is not None else (None, False)
    if found is None or not exists or found.plain() != _plain(value):
        raise DualprocError(f"`{dotted(path)}` cannot be edited here: change it in the YAML text")
    return changed


def _edited(text: str, node: yaml.Node, path: KeyPath, value: Any, key: yaml.Node | None = None) -> str:
    """The text with `value` at `path` below `node`, the value of `key`."""
    if not path:
        return _replaced(text, node, key, value)
    if isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            if name.value == str(path[0]):
                return _edited(text, child, path[1:], value, name)
        return _added(text, node, path, value)
    if isinstance(node, yaml.SequenceNode) and str(path[0]).isdecimal() and int(path[0]) < len(node.value):
        return _edited(text, node.value[int(path[0])], path[1:], value)
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~"):
        return _replaced(text, node, key, _nested(path, value))
    raise DualprocError(f"`{path[0]}` cannot be edited here: change it in the YAML text")


def _replaced(text: str, node: yaml.Node, key: yaml.Node | None, value: Any) -> str:
    start, end = node.start_mark.index, _end(text, node)
    if key is None or _in_flow(text, key):
        space = "" if text[:start].endswith((" ", "\n", "[", "{", ",")) else " "
        return text[:start] + space + _written(value, node.start_mark.column, flow=True) + text[end:]
    after_key = key.end_mark.index + 1
    own_line = key.start_mark.line != node.start_mark.line
    indent = node.start_mark.column if own_line else key.start_mark.column + 2
    if text[after_key:start].strip() or (own_line and _in_block(value)):  # comments, or the same indentation as before
        before = text[:start]
    else:
        before = text[:after_key] + (f"\n{' ' * indent}" if _in_block(value) else " ")
    return before + _written(value, indent) + text[end:]


def _added(text: str, mapping: yaml.MappingNode, path: KeyPath, value: Any) -> str:
    if mapping.flow_style:
        end = mapping.end_mark.index - 1
        entry = f"{path[0]}: {_written(_nested(path[1:], value), 0, flow=True)}"
        head = text[:end].rstrip()
        return f"{head}{', ' if mapping.value else ''}{entry}{text[end:]}"
    column = mapping.start_mark.column
    end = _end(text, mapping)
    return f"{text[:end]}\n{textwrap.indent(_entry(path, value), ' ' * column)}{text[end:] or chr(10)}"


def _entry(path: KeyPath, value: Any) -> str:
    """A new key and its value, as lines."""
    return _block_entry(path[0], _nested(path[1:], value), 0)


def _block_entry(key: str | int, value: Any, indent: int) -> str:
    """A key and its value in block style; all lines but the first are indented."""
    new = _written(value, indent + 2)
    return f"{key}:{chr(10) + ' ' * (indent + 2) if _in_block(value) else ' '}{new}"


def _end(text: str, node: yaml.Node) -> int:
    """Where the text of a node ends; PyYAML counts blank lines and comments after a block as part of it."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style:
        return int(node.end_mark.index)
    return _end(text, node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1])


def _in_flow(text: str, key: yaml.Node) -> bool:
    """Whether a key is in a mapping of flow style: something other than indentation and `-` is before it."""
    line = text[text.rfind("\n", 0, key.start_mark.index) + 1 : key.start_mark.index]
    return bool(line.strip(" -"))


def _nested(path: Sequence[str | int], value: Any) -> Any:
    for part in reversed(path):
        value = {str(part): value}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _written(value: Any, indent: int, *, flow: bool = False) -> str:
    """A value as YAML: on one line, or lists over several, of which all but the first are indented."""
    line = line_of(value)
    if isinstance(value, dict) and not flow and _in_block(value):
        return f"\n{' ' * indent}".join(_block_entry(key, item, indent) for key, item in value.items())
    if flow or (len(line) + indent <= _WIDTH and not _in_block(value)):
        return line
    if isinstance(value, (list, tuple)) and value:
        items = [line_of(item) for item in value]
        if _in_block(value):
            return f"\n{' ' * indent}".join(f"- {item}" for item in items)
        return "[" + _wrapped(items, indent + 1) + "]"
    return line


def _wrapped(items: Sequence[str], indent: int) -> str:
    lines, width = [""], _WIDTH - indent
    for index, item in enumerate(items):
        part = item + ("," if index < len(items) - 1 else "")
        if lines[-1] and len(lines[-1]) + 1 + len(part) > width:
            lines.append("")
        lines[-1] += f" {part}" if lines[-1] else part
    return f"\n{' ' * indent}".join(lines)


def _in_block(value: Any) -> bool:
    """Whether a value is written in block style: a list of mappings, or a mapping with such a list."""
    if isinstance(value, dict):
        return any(map(_in_block, value.values()))
    return isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value)


def line_of(value: Any) -> str:
    """A value as YAML on one line."""
    written: str = yaml.dump(
        _plain(value), Dumper=_Flow, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31
    )
    return written.removesuffix("...\n").strip()
