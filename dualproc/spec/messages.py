"""Convert pydantic's errors to problems with a place in the file, a plain message and the expected value."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dualproc.errors import Problem
from dualproc.wording import nearest

from .document import At, KeyPath, Node, dotted, problem_at, split
from .fields import NAME, NOT_BLANK, WORD
from .mistakes import MAX_PROBLEMS, show
from .template import SECTIONS, defined_names, slider_names, sole_placeholder

_LONGEST = 1000
"""Maximum number of characters of a message, a path or a hint: keys and values of a spec may have any length."""

_EXPECTED = {
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_attributes_type", "model_type"), "a mapping"),
    **dict.fromkeys(("enum", "literal_error"), "{expected}"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("int_from_float", "int_parsing", "int_type"), "an integer"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "string_too_long": "a string of at most {max_length} characters",
    "string_too_short": "a string of {min_length} or more characters",
    "string_type": "a string",
    "string_unicode": "a valid Unicode string",
    "too_long": "at most {max_length} items",
    "too_short": "{min_length} or more items",
}
"""What pydantic expected, by its types of errors; other errors keep pydantic's message."""
_PATTERNS = {
    NAME: "a name of letters, digits, `_` and `-`",
    WORD: "a name of letters, digits and `_`",
    NOT_BLANK: "a string that is not blank",
}
_SECTIONS = ", ".join(map(dotted, SECTIONS))


@dataclass
class _Draft:
    """A problem being built. `expected` has one phrase for each member of a union that rejected the value."""

    path: KeyPath
    message: str
    hint: str | None = None
    at: At = "value"
    expected: list[str] = field(default_factory=list)
    value: Any = None

    def __str__(self) -> str:
        return f"expected {' or '.join(self.expected)}, found {show(self.value)}" if self.expected else self.message


def problems_from(
    error: ValidationError,
    model: type[BaseModel],
    document: Node,
    path: str | KeyPath = (),
    *,
    also: Collection[str] = (),
) -> list[Problem]:
    """Convert the validation error of the value at `path`, which is not a valid `model`, to problems.

    `also` are keys of the value that `model` does not have because something else reads them.
    """
    path, names, sliders = split(path), defined_names(document), slider_names(document)
    part = document.nearest(path)[0]
    unions: dict[KeyPath, _Draft] = {}
    drafts: list[_Draft] = []
    errors = [details for details in error.errors(include_url=False) if not _is_consequence(details)]
    for details in errors[: MAX_PROBLEMS + 1]:
        draft = _draft(details, model, part, names, sliders, also)
        first = unions.setdefault(draft.path, draft) if draft.expected else draft
        if first is draft:
            drafts.append(draft)
        else:
            first.expected += [phrase for phrase in draft.expected if phrase not in first.expected]
    return [problem_at(document, path + draft.path, str(draft), hint=draft.hint, at=draft.at) for draft in drafts]


def for_report(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in file order, without duplicates, shortened, and at most MAX_PROBLEMS plus a note."""
    unique = sorted(
        dict.fromkeys(map(_shortened, problems)),
        key=lambda p: (p.source is None, p.source or "", p.line or 0, p.column or 0),
    )
    if len(unique) <= MAX_PROBLEMS:
        return tuple(unique)
    return (*unique[:MAX_PROBLEMS], Problem(f"only the first {MAX_PROBLEMS} mistakes are shown"))


def _shortened(problem: Problem) -> Problem:
    fields = ("message", "path", "hint", "text")
    short: dict[str, Any] = {name: _short(text) for name in fields if (text := getattr(problem, name))}
    if problem.column is not None and short.get("text", problem.text) != problem.text:
        short["text"] = None  # the `^` below the shortened line would be misplaced
    return replace(problem, **short)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


def _is_consequence(details: Any) -> bool:
    """Whether a list is reported as too short only because pydantic does not count its invalid items."""
    return bool(details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"])


def _draft(
    details: Any,
    model: type[BaseModel],
    part: Node,
    names: Collection[str],
    sliders: Collection[str],
    also: Collection[str],
) -> _Draft:
    """One error of pydantic, in the words of a problem; `names` are those of the variants' values."""
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    location = tuple(details["loc"])
    path = _path(location, part, missing=kind == "missing")
    if kind == "mistake":
        return _Draft(path, context["message"], context["hint"])
    if kind == "extra_forbidden":
        known = [*_fields(_model_at(model, location[:-1])), *(also if len(location) == 1 else ())]
        hint = nearest(str(location[-1]), known)
        return _Draft(path, f"unknown key `{location[-1]}`", hint, at="key")
    if kind == "missing":
        if isinstance(location[-1], int):
            return _Draft(path, f"item {location[-1]} of the list is missing (counted from 0)")
        missing = _fields(_model_at(model, location[:-1])).get(str(location[-1]))
        return _Draft(path, f"`{location[-1]}` is missing", missing.description if missing else None)
    if isinstance(value, str) and (name := sole_placeholder(value)) is not None:
        if name in sliders:
            message = f"the placeholder {{{name}}} of a slider is not allowed here"
            return _Draft(path, message, "sliders fill questions, the description and parameters of plugins")
        if name not in names:
            return _Draft(path, f"unknown placeholder {{{name}}}", nearest(name, sorted(names)))
        return _Draft(path, f"the placeholder {{{name}}} is not allowed here", f"variants fill only {_SECTIONS}")
    at: At = "key" if location[-1:] == ("[key]",) else "value"
    phrase = _expected(kind, context, details["msg"])
    if phrase is None:
        return _Draft(path, str(context.get("error", details["msg"])), at=at)
    return _Draft(path, "", _hint(kind, value, context), at, [phrase], value)


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str | None:
    if kind == "expected":
        return message
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"a string that matches {context['pattern']}")
    template = _EXPECTED.get(kind)
    return template.format(**context) if template else None


def _hint(kind: str, value: Any, context: Mapping[str, Any]) -> str | None:
    """How to fix common mistakes; None for others."""
    if isinstance(value, Mapping) and len(value) == 1 and list(value.values()) == [None]:
        return f'put the placeholder in quotes: "{{{next(iter(value))}}}"'
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "put it in quotes"
    if kind in ("literal_error", "enum") and isinstance(value, str):
        choices = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return nearest(value, choices) if len(choices) > 1 else None
    if kind == "model_type" and isinstance(value, str):
        if context["class_name"] == "QuestionSpec":
            text = value if len(value) < 80 and not {'"', "\\", "\n"} & set(value) else "..."
            return f'write a question as `{{template: "{text}"}}`'
        if context["class_name"].endswith("Ref") and len(value) < 40:
            return f"did you mean `{{type: {value}}}`?"
    return None


def _path(location: KeyPath, part: Node, *, missing: bool) -> KeyPath:
    """The document's path for a pydantic location: without the tags of union members, which are not keys."""
    path: KeyPath = ()
    for index, step in enumerate(location):
        child = part.child(step)
        if child is not None:
            path, part = (*path, step), child
        elif missing and index == len(location) - 1:
            path = (*path, step)
    return path


def _model_at(model: type[BaseModel], location: KeyPath) -> type[BaseModel]:
    """The model that validates the mapping at a location, as far as the annotations show."""
    for step in location:
        if field := _fields(model).get(str(step)):
            model = _model_in(field.annotation) or BaseModel
    return model


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a model by the keys of a spec."""
    return {str(field.alias or name): field for name, field in model.model_fields.items()}


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if arguments := get_args(annotation):  # first: on Python 3.10, `tuple[int]` is an instance of `type`, too
        return next(filter(None, map(_model_in, arguments)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
