"""Mistakes that the models report: located pydantic errors, which `messages` converts to problems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .document import MAX_DEPTH, KeyPath

MAX_PROBLEMS = 100
"""Maximum number of problems in one report."""
_HUGE = 10**300
"""Integers of this size and above are not printed: Python raises an error for those with more than 4,300 digits."""


class Mistake(NamedTuple):
    """One mistake inside a value: its path relative to the value, a message, and a hint."""

    path: KeyPath
    message: str
    hint: str | None = None


def raise_mistakes(mistakes: Sequence[Mistake], value: Any) -> None:
    """Raise the mistakes of a value, if there are any, as one ValidationError; pydantic adds the value's location."""
    details = []
    for path, message, hint in mistakes:
        error = PydanticCustomError("mistake", "{message}", {"message": message, "hint": hint})
        details.append(InitErrorDetails(type=error, loc=path, input=value))
    if details:
        raise ValidationError.from_exception_data("spec", details)


def show(value: Any) -> str:
    """Describe a value briefly for a message: `the string 'abc'`, `0.5`, `a list of 3`."""
    if isinstance(value, str):
        return f"the string {value!r}" if len(value) <= 60 else f"the string {value[:60]!r}..."
    if value is None:
        return "no value (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a number with more than 300 digits"
    return repr(value)[:60]


def plain_data(data: Any) -> Any:
    """A copy of `data` with only values that YAML can represent: dicts, lists, strings, numbers, booleans and None.

    Raises ValidationError if a value has another type, is not finite or not valid Unicode, or is nested too deeply.
    """
    mistakes: list[Mistake] = []
    copy = _plain(data, (), mistakes)
    raise_mistakes(mistakes, data)
    return copy


def _plain(data: Any, path: KeyPath, mistakes: list[Mistake]) -> Any:
    if len(path) > MAX_DEPTH:
        mistakes.append(Mistake(path, f"values are nested more than {MAX_DEPTH} levels deep"))
        return None
    if isinstance(data, Mapping):
        return {str(key): _plain(value, (*path, str(key)), mistakes) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value, (*path, index), mistakes) for index, value in enumerate(data)]
    if data is None or isinstance(data, bool):
        return data
    if isinstance(data, int) and abs(data) < _HUGE:
        return int(data)
    if isinstance(data, float) and math.isfinite(data):
        return float(data)
    if isinstance(data, str) and not _has_surrogates(data):
        return str(data)
    mistakes.append(Mistake(path, f"expected a string or a finite number, found {show(data)}"))
    return None


def _has_surrogates(text: str) -> bool:
    """Whether a string contains half of a surrogate pair, which UTF-8 cannot encode."""
    return any("\ud800" <= character <= "\udfff" for character in text)
