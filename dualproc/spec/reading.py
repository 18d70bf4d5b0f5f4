"""Parse YAML or JSON text into a tree of nodes with places, using the scalar rules of YAML 1.2.

PyYAML only splits the text into events. Its constructors never run, so no text can create a Python object. Its own
scalar rules, those of YAML 1.1, would read `Yes` as a boolean and `5e-5` as a string.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from dualproc.errors import Problem, SpecError

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
"""Maximum number of keys and values in a file: enough for 10,000 prompts of four fields, and read in seconds."""
_LONGEST_LINE = 400
"""Maximum length, in characters, of a line shown with a problem; JSON on one line may exceed it."""


def scalar(text: str) -> Scalar:
    """The value of an unquoted scalar by YAML 1.2's core schema: `Yes` and `on` are strings, `1e-4` is a number."""
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
    """The tree of a YAML or JSON text (None if it cannot be parsed), and the problems of the text."""
    if is_json:
        text = text.replace("\t", " ")  # JSON allows tabs between tokens (not inside strings), PyYAML does not
    reader = _Reader(text, source)
    try:
        return reader.document(), reader.problems
    except SpecError:
        pass
    except yaml.MarkedYAMLError as error:
        reader.report_syntax(error)
    except yaml.reader.ReaderError as error:
        before = _LINE_BREAK.split(text[: error.position])
        place = Place(source, len(before), len(before[-1]) + 1)
        reader.report(f"the character {chr(error.character)!a} is not allowed in a spec", place)
    except (ValueError, OverflowError):  # PyYAML hands a `\U` escape beyond Unicode to chr()
        reader.report("an escape sequence in a quoted string is not a Unicode character", Place(source))
    return None, reader.problems


class _Reader:
    """Builds the tree from PyYAML's events and collects the problems of the text."""

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
            self.fail("the file is empty", Place(self.source, 1, 1))
        self.loader.get_event()  # the document's start
        root = self.node(None, 0)
        self.loader.get_event()  # its end
        after = self.loader.get_event()
        if not isinstance(after, yaml.StreamEndEvent):
            self.report("a second YAML document starts here; a spec file has only one", self.place(after.start_mark))
        if not isinstance(root.value, dict):
            self.fail("expected a mapping of keys to values", root.place, "start with `schema_version: 1`")
        return root

    def node(self, key: Place | None, depth: int) -> Node:
        event = self.loader.get_event()
        place = self.place(event.start_mark)
        if depth > MAX_DEPTH:
            self.fail(f"values are nested more than {MAX_DEPTH} levels deep", place)
        self.values += 1
        if self.values > MAX_VALUES:
            self.fail(f"the file has more than {MAX_VALUES} keys and values", place)
        if event.anchor is not None:
            self.report("anchors and aliases (`&name`, `*name`) are not allowed", place, "write the value in full")
        if isinstance(event, yaml.AliasEvent):
            return Node(None, place, key)
        if event.tag is not None:
            self.report(f"tags ({event.tag}) are not allowed", place, "put a string that starts with `!` in quotes")
        if isinstance(event, yaml.MappingStartEvent):
            return Node(self.mapping(depth), place, key)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(self.loader.peek_event(), yaml.SequenceEndEvent):
                items.append(self.node(None, depth + 1))
            self.loader.get_event()
            return Node(items, place, key)
        text = self.join_surrogates(event.value, place)
        return Node(text if event.style else scalar(text), place, key)

    def mapping(self, depth: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        while not isinstance(event := self.loader.peek_event(), yaml.MappingEndEvent):
            place = self.node(None, depth + 1).place
            if isinstance(event, yaml.ScalarEvent):
                key = self.join_surrogates(event.value, place)
                if key in children:
                    first = children[key].key
                    self.report(f"duplicate key `{key}`; first used on line {first.line if first else '?'}", place)
                children.setdefault(key, self.node(place, depth + 1))
            else:
                self.report("a key must be a single word, not a list or a mapping", place)
                self.node(place, depth + 1)
        self.loader.get_event()
        return children

    def join_surrogates(self, text: str, place: Place) -> str:
        """Join surrogate pairs to characters: JSON escapes characters above U+FFFF as two halves."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self.report("an escape sequence in this string is only half of a surrogate pair", place)
            return ""

    def place(self, mark: Any) -> Place:
        line = self.lines[mark.line] if mark.line < len(self.lines) else ""
        text = line.replace("\t", " ") if len(line) <= _LONGEST_LINE else None
        return Place(self.source, mark.line + 1, mark.column + 1, text)

    def report_syntax(self, error: yaml.MarkedYAMLError) -> None:
        message, hint = f"not valid YAML: {error.problem or error}", error.context
        if "\\t" in message:
            message, hint = "found a tab where YAML expects spaces", "indent with spaces"
        elif "mapping values are not allowed" in message:
            hint = "put a string that contains `: ` in quotes"
        elif "but got '?'" in message:
            hint = "inside braces or brackets, put a string that contains `?` in quotes"
        mark = error.problem_mark or error.context_mark
        self.report(message, self.place(mark) if mark else Place(self.source), hint)

    def report(self, message: str, place: Place, hint: str | None = None) -> None:
        self.problems.append(place.problem(message, hint=hint))

    def fail(self, message: str, place: Place, hint: str | None = None) -> NoReturn:
        self.report(message, place, hint)
        raise SpecError(self.problems)
