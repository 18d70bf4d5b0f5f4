"""YAML or JSON text to a tree of located values, with the scalars of YAML 1.2.

PyYAML only splits the text into events; nothing of its constructors runs, so no text can become an object. YAML 1.1,
which PyYAML otherwise reads, makes `Yes` a boolean and `5e-5` a text.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from dualproc.errors import Problem

from .document import MAX_DEPTH, Node, Place, Scalar

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]{1,300}")
_OTHER_BASE = re.compile(r"0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LINE_BREAK = re.compile(r"\r\n|[\r\n\x85\u2028\u2029]")
MAX_VALUES = 100_000
"""How many keys and values a text may hold, so that reading it takes seconds; 10,000 prompts of four fields fit in."""
_LONGEST_LINE = 400
"""Longer lines (JSON on one line) are not shown with a problem."""


def scalar(text: str) -> Scalar:
    """What an unquoted text means by the core schema of YAML 1.2: `Yes` and `on` are text, `1e-4` is a number."""
    if text in _WORDS:
        return _WORDS[text]
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def read_text(text: str, source: str, *, is_json: bool = False) -> tuple[Node | None, list[Problem]]:
    """The tree of a YAML or JSON text, None if it cannot be parsed, and what is wrong with it."""
    if is_json:
        text = text.replace("\t", " ")  # JSON allows tabs between tokens (not inside strings), PyYAML does not
    reader = _Reader(text, source)
    try:
        return reader.document(), reader.problems
    except _UnreadableError:
        pass
    except yaml.MarkedYAMLError as error:
        reader.report_syntax(error)
    except yaml.reader.ReaderError as error:
        before = _LINE_BREAK.split(text[: error.position])
        place = Place(source, len(before), len(before[-1]) + 1)
        reader.report(f"the character {chr(error.character)!a} is not allowed in a spec", place)
    except (ValueError, OverflowError):  # PyYAML hands a `\U` escape beyond Unicode to chr()
        reader.report("an escape in a quoted text is not a Unicode character", Place(source))
    return None, reader.problems


class _UnreadableError(Exception):
    """Reading cannot go on; the reader's `problems` say why."""


class _Reader:
    def __init__(self, text: str, source: str) -> None:
        self.text = text
        self.source = source
        self.lines = _LINE_BREAK.split(text)
        self.problems: list[Problem] = []
        self.values = 0
        self.loader: Any = None

    def document(self) -> Node:
        self.loader = yaml.SafeLoader(self.text)
        self.loader.get_event()  # the stream's start
        if isinstance(self.loader.peek_event(), yaml.StreamEndEvent):
            self.stop("the file is empty", Place(self.source, 1, 1))
        self.loader.get_event()  # the document's start
        root = self.node(None, 0)
        self.loader.get_event()  # its end
        after = self.loader.get_event()
        if not isinstance(after, yaml.StreamEndEvent):
            self.report("a second document starts here; a spec file holds one", self.place(after.start_mark))
        if not isinstance(root.value, dict):
            self.stop("a spec is a mapping of keys to values", root.place, "it opens with `schema_version: 1`")
        return root

    def node(self, key: Place | None, depth: int) -> Node:
        event = self.loader.get_event()
        place = self.place(event.start_mark)
        if depth > MAX_DEPTH:
            self.stop(f"values are nested more than {MAX_DEPTH} deep", place)
        self.values += 1
        if self.values > MAX_VALUES:
            self.stop(f"more than {MAX_VALUES} keys and values stand in this file", place)
        if event.anchor is not None:
            self.report("anchors and aliases (`&name`, `*name`) are not allowed", place, "write the value out")
        if isinstance(event, yaml.AliasEvent):
            return Node(None, place, key)
        if event.tag is not None:
            self.report(f"tags ({event.tag}) are not allowed", place, "quotes make a text of anything")
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self.mapping(depth), place, key)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(self.loader.peek_event(), yaml.SequenceEndEvent):
                items.append(self.node(None, depth + 1))
            self.loader.get_event()
            return Node(items, place, key)
        text = self.repaired(event.value, place)
        return Node(text if event.style else scalar(text), place, key)

    def mapping(self, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        while not isinstance(event := self.loader.peek_event(), yaml.MappingEndEvent):
            place = self.place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                self.node(None, depth + 1)
                self.report("a key is a single word, not a list or a mapping", place)
                self.node(place, depth + 1)
                continue
            self.node(None, depth + 1)
            key = self.repaired(event.value, place)
            value = self.node(place, depth + 1)
            if key in children:
                first = children[key].key
                self.report(f"the key `{key}` stands here twice; first in line {first.line if first else '?'}", place)
            children.setdefault(key, value)
        self.loader.get_event()
        return children

    def repaired(self, text: str, place: Place) -> str:
        """The text with the two halves of a character that JSON escapes as a pair put together."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.report("an escape in this text is half a character", place)
            return ""

    def place(self, mark: Any) -> Place:
        line = self.lines[mark.line] if mark.line < len(self.lines) else ""
        text = line.replace("\t", " ") if len(line) <= _LONGEST_LINE else None
        return Place(self.source, mark.line + 1, mark.column + 1, text)

    def report_syntax(self, error: yaml.MarkedYAMLError) -> None:
        message, hint = f"not valid YAML: {error.problem or error}", error.context
        if "\\t" in message:
            message, hint = "a tab stands where YAML wants spaces", "indent with spaces"
        elif "mapping values are not allowed" in message:
            hint = "a text that contains `: ` needs quotes"
        mark = error.problem_mark or error.context_mark
        self.report(message, self.place(mark) if mark else Place(self.source), hint)

    def report(self, message: str, place: Place, hint: str | None = None) -> None:
        self.problems.append(Problem(message, "", place.source, place.line, place.column, place.text, hint))

    def stop(self, message: str, place: Place, hint: str | None = None) -> NoReturn:
        self.report(message, place, hint)
        raise _UnreadableError
