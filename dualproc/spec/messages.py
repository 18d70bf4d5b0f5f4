"""pydantic's errors as problems: placed in the file, in plain words, with what was expected."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dualproc.errors import Problem
from dualproc.wording import nearest

from .document import At, KeyPath, Node, dotted, problem_at
from .fields import NAME, NOT_BLANK, WORD
from .mistakes import MAX_PROBLEMS, show
from .template import SECTIONS, whole

_LONGEST = 1000
"""Characters of a message, a path, a hint: a spec may have keys of any length, which nobody wants to read again."""

_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "mapping_type": "a mapping",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_too_long": "a text of at most {max_length} characters",
    "string_too_short": "a text of at least {min_length} characters",
    "string_type": "a text",
    "string_unicode": "a text of Unicode characters",
    "too_long": "at most {max_length} items",
    "too_short": "at least {min_length} items",
    "tuple_type": "a list",
}
_PATTERNS = {
    NAME: "a name of letters, digits, `_` and `-`",
    WORD: "a name of letters, digits and `_`",
    NOT_BLANK: "a text that is not blank",
}
_SECTIONS = ", ".join(map(dotted, SECTIONS))


@dataclass
class _Found:
    """One error on its way to a problem; `expected` may grow when a union reports one error a member."""

    path: KeyPath
    message: str
    hint: str | None = None
    at: At = "value"
    expected: list[str] | None = None
    value: Any = None


def problems_from(
    error: ValidationError, model: type[BaseModel], document: Node, *, path: KeyPath = (), names: Collection[str] = ()
) -> list[Problem]:
    """The problems of the value at `path` of a document, which is not a valid `model`.

    `names` are the names that variants define, to suggest for a misspelt placeholder.
    """
    part = document.nearest(path)[0]
    unions: dict[KeyPath, _Found] = {}
    all_found: list[_Found] = []
    errors = [details for details in error.errors(include_url=False) if not _is_echo(details)]
    for details in errors[: MAX_PROBLEMS + 1]:
        found = _found(details, model, part, names)
        first = unions.get(found.path)
        if found.expected and first and first.expected:
            first.expected += [phrase for phrase in found.expected if phrase not in first.expected]
            continue
        if found.expected:
            unions[found.path] = found
        all_found.append(found)
    return [
        problem_at(document, path + found.path, _message(found), hint=found.hint, at=found.at) for found in all_found
    ]


def tidy(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in the order of the files, each once, no more than MAX_PROBLEMS, none of them endless."""
    unique = sorted(
        dict.fromkeys(map(_shortened, problems)),
        key=lambda p: (p.source is None, p.source or "", p.line or 0, p.column or 0),
    )
    if len(unique) <= MAX_PROBLEMS:
        return tuple(unique)
    return (*unique[:MAX_PROBLEMS], Problem(f"only the first {MAX_PROBLEMS} mistakes are shown"))


def _shortened(problem: Problem) -> Problem:
    message, path, hint, text = (
        _short(part) if part else part for part in (problem.message, problem.path, problem.hint, problem.text)
    )
    if text != problem.text and problem.column is not None:  # the mark below the line would point at nothing
        text = None
    return replace(problem, message=message or "", path=path or "", hint=hint, text=text)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 4 :]}"


def _is_echo(details: Any) -> bool:
    """pydantic does not count invalid items of a list, and then finds the list too short."""
    return bool(details["type"] == "too_short" and len(details["input"]) >= details["ctx"]["min_length"])


def _message(found: _Found) -> str:
    if found.expected is None:
        return found.message
    return f"expected {' or '.join(found.expected)}, found {show(found.value)}"


def _found(details: Any, model: type[BaseModel], part: Node, names: Collection[str]) -> _Found:
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    location = tuple(details["loc"])
    path = _path(location, part, missing=kind == "missing")
    if kind == "mistake":
        return _Found(path, context["message"], context["hint"])
    if kind == "extra_forbidden":
        hint = nearest(str(location[-1]), _keys(_model_at(model, location[:-1])))
        return _Found(path, f"unknown key `{location[-1]}`", hint, at="key")
    if kind == "missing":
        if isinstance(location[-1], int):
            return _Found(path, f"item {location[-1]} of the list is missing")
        return _Found(path, f"`{location[-1]}` is missing", _description(_model_at(model, location[:-1]), location[-1]))
    if isinstance(value, str) and (name := whole(value)) is not None:
        if name not in names:
            return _Found(path, f"unknown placeholder {{{name}}}", nearest(name, sorted(names)))
        return _Found(path, f"the placeholder {{{name}}} is not filled in here", f"variants fill {_SECTIONS}")
    at: At = "key" if location[-1:] == ("[key]",) else "value"
    phrase = _expected(kind, context, details["msg"])
    if phrase is None:
        return _Found(path, str(context.get("error", details["msg"])), at=at)
    return _Found(path, "", _hint(kind, value, context), at, [phrase], value)


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str | None:
    if kind == "expected":
        return message
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"a text that matches {context['pattern']}")
    template = _EXPECTED.get(kind)
    return template.format(**context) if template else None


def _hint(kind: str, value: Any, context: Mapping[str, Any]) -> str | None:
    """What to do about the usual slips."""
    if isinstance(value, Mapping) and len(value) == 1 and list(value.values()) == [None]:
        return f'a placeholder needs quotes: "{{{next(iter(value))}}}"'
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "put it in quotes"
    if kind in ("literal_error", "enum") and isinstance(value, str):
        choices = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return nearest(value, choices) if len(choices) > 1 else None
    if kind == "model_type" and isinstance(value, str):
        return f"perhaps {{type: {value}}}" if len(value) < 40 else None
    return None


def _path(location: KeyPath, part: Node, *, missing: bool) -> KeyPath:
    """A location of pydantic without the names of union members, which no key of the document has."""
    path: KeyPath = ()
    for index, step in enumerate(location):
        child = part.child(step)
        if child is not None:
            path, part = (*path, step), child
        elif missing and index == len(location) - 1:
            path = (*path, step)
    return path


def _model_at(model: type[BaseModel], location: KeyPath) -> type[BaseModel] | None:
    """The model that validates the mapping at a location, as far as the annotations tell."""
    here: type[BaseModel] | None = model
    for step in location:
        field = _by_key(here).get(str(step)) if here and isinstance(step, str) else None
        here = _model_in(field.annotation) if field else here
    return here


def _by_key(model: type[BaseModel] | None) -> dict[str, Any]:
    return {str(field.alias or name): field for name, field in model.model_fields.items()} if model else {}


def _keys(model: type[BaseModel] | None) -> list[str]:
    return list(_by_key(model))


def _description(model: type[BaseModel] | None, key: str | int) -> str | None:
    field = _by_key(model).get(str(key))
    return field.description if field else None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
