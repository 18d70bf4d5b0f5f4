"""The dataclasses of `types.py` as JSON and back, without loss but for one thing: nan and the infinities are null."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dualproc.errors import RunError

T = TypeVar("T")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` (dataclasses, mappings, sequences, numbers, text) as strict JSON."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def from_json(kind: type[T], text: str, *, source: Path | str) -> T:
    """A dataclass `kind` from what `to_json` wrote. Keys it does not know are left out, a null number becomes nan.

    Raises RunError, naming `source`, if the text is no JSON or does not fit.
    """
    try:
        value: T = _typed(kind, json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RunError(f"{source} is damaged: no {kind.__name__} can be read from it ({error})") from error
    return value


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _typed(kind: Any, value: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        known = {name: hint for name, hint in get_type_hints(kind).items() if name in value}
        return kind(**{name: _typed(hint, value[name]) for name, hint in known.items()})  # type: ignore[operator]
    if origin in (Union, types.UnionType):  # only `X | None` occurs
        return None if value is None else _typed(arguments[0], value)
    if origin is tuple:
        return tuple(_typed(arguments[0], item) for item in value)
    if origin is not None:  # a mapping of texts
        return dict(value)
    if kind is float:
        return math.nan if value is None else float(value)
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value
