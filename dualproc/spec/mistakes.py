"""How the models say what is wrong: located errors that `messages` turns into problems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from .document import MAX_DEPTH, KeyPath

MAX_PROBLEMS = 100
"""No more than this are shown at once; nobody need look for many more."""
_HUGE = 10**300


class Mistake(NamedTuple):
    """One mistake inside a value: where, relative to the value, and what."""

    path: KeyPath
    message: str
    hint: str | None = None


def refuse(mistakes: Sequence[Mistake], value: Any) -> None:
    """Raise all mistakes of a value as one ValidationError, which pydantic passes on with its location.

    Raises:
        ValidationError: if there is any mistake.
    """
    if not mistakes:
        return
    details = [
        InitErrorDetails(
            type=PydanticCustomError("mistake", "{message}", {"message": mistake.message, "hint": mistake.hint}),
            loc=mistake.path,
            input=value,
        )
        for mistake in mistakes
    ]
    raise ValidationError.from_exception_data("spec", details)


def show(value: Any) -> str:
    """A value in a few words, for messages: `the text 'abc'`, `0.5`, `a list of 3`."""
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 60 else f"the text {value[:60]!r}..."
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, int) and abs(value) >= _HUGE:  # Python refuses to write down those of 4,300 digits and more
        return "a number of more than 300 digits"
    return repr(value)[:60]


def plain_data(data: Any) -> Any:
    """A copy of `data` made of mappings, lists, texts, numbers, booleans and None only, so that YAML can hold it.

    Raises:
        ValidationError: something in it is none of these, or a number that is not finite, or nested too deep.
    """
    mistakes: list[Mistake] = []
    copy = _plain(data, (), mistakes)
    refuse(mistakes, data)
    return copy


def _plain(data: Any, path: KeyPath, mistakes: list[Mistake]) -> Any:
    if len(path) > MAX_DEPTH:
        mistakes.append(Mistake(path, f"values are nested more than {MAX_DEPTH} deep"))
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
    if isinstance(data, str) and data.encode("utf-8", "ignore").decode() == data:  # no half characters
        return str(data)
    mistakes.append(Mistake(path, f"expected a text or a finite number, found {show(data)}"))
    return None
