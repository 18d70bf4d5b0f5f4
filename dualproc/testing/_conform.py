"""Shared by all checks: find and build the plugin, collect the findings, compare and describe tensors."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from dualproc import registry
from dualproc.errors import DualprocError
from dualproc.protocols import KINDS, MemoryOptions
from dualproc.spec.refs import fullest_ref

UNKNOWN = "no_such_parameter"
RESERVED = {kind: tuple(fullest_ref(kind).model_fields) for kind in KINDS}
"""Keys that a spec reads itself: a spec could not set a parameter of such a name."""
MEMORY_KINDS = ("generators", "judges")
"""The kinds whose parameters `MemoryOptions` describes."""

Result = TypeVar("Result")
Checks = Callable[[Any], Iterable[Iterator[str]]]


class ConformanceError(AssertionError):
    """The plugin does not follow its protocol; `findings` has one sentence for each problem."""

    def __init__(self, plugin: str, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{plugin} does not follow its protocol:\n" + "\n".join(f"  - {found}" for found in findings))


class Finding(Exception):  # noqa: N818 - one sentence of a ConformanceError
    """A finding after which the rest of a check cannot continue."""


def conform(kind: str, plugin: type[Any] | str, params: Mapping[str, Any] | None, checks: Checks) -> None:
    """Check what all kinds have in common, build the plugin, and run the checks of its kind.

    `checks` gets the live plugin and returns generators of sentences. The first one checks the types and shapes of
    results, and that they are reproducible. If it finds a problem, the others are skipped, because they would report
    its consequences. Raises ConformanceError if there are findings, and PluginError if the plugin cannot be loaded.
    """
    registry.require_kind(kind)
    given = dict(params or {})
    if isinstance(plugin, str):
        loaded = registry.load(kind, plugin)
        label, cls, given = str(loaded.entry), loaded.cls, {**loaded.preset, **given}
    else:
        label, cls = f"{registry.singular(kind)} {getattr(plugin, '__qualname__', repr(plugin))}", plugin
    fault = registry.version_fault(cls)
    findings = [*([fault] if fault else []), *registry.class_faults(kind, cls)]
    if not findings:  # otherwise, it cannot be built
        with _random_state_restored():
            findings += _collected(_parameters(kind, cls, given))
            findings += _collected(_built(kind, cls, given, checks))
    if findings:
        raise ConformanceError(label, list(dict.fromkeys(findings)))


def require_several(argument: str, values: Sequence[Any], least: int, most: int | None = None) -> None:
    """Raise DualprocError unless an argument of a check is a sequence of `least` to `most` different values."""
    expected = f"{least} or more" if most is None else f"{least} to {most}" if most > least else f"{least}"
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise DualprocError(f"expected a list for `{argument}`, got {described(values)}")
    different = [value for index, value in enumerate(values) if value not in values[:index]]
    if len(different) < len(values) or not least <= len(values) <= (most or len(values)):
        found = f"{len(values)}, of which {len(different)} differ" if len(different) < len(values) else f"{len(values)}"
        raise DualprocError(f"this check needs {expected} different `{argument}`, got {found}: {list(values)!r}"[:400])


def call(name: str, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
    """Call a plugin's method. Raises Finding if it raised an exception, or changed the global gradient mode."""
    before = torch.is_grad_enabled()
    try:
        out = function(*args, **kwargs)
    except Exception as error:
        raise Finding(f"{name} raised {type(error).__name__}: {error}") from error
    finally:
        after = torch.is_grad_enabled()
        torch.set_grad_enabled(before)
    if after != before:
        raise Finding(
            f"{name} leaves gradients switched {'on' if after else 'off'} globally; use torch.set_grad_enabled as a"
            " context manager"
        )
    return out


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """The gradients of a scalar with respect to each input, 0 where it does not depend on it; keeps the graph."""
    return call("the backward pass", torch.autograd.grad, value, inputs, retain_graph=True, materialize_grads=True)


def touched(value: Tensor, weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the weights that the gradient of a scalar reaches; other leaves keep the gradient."""
    call("the backward pass", torch.autograd.backward, value)
    names = [name for name, weight in weights.items() if weight.grad is not None]
    for name in names:
        weights[name].grad = None
    return names


def described(value: Any) -> str:
    """A value as findings describe it: `float32 [2, 3, 64, 64]` for a tensor, else its type and value."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]


def has_form(value: Any, shape: Sequence[int | None]) -> TypeGuard[Tensor]:
    """Whether a value is a floating-point tensor of this shape; None in the shape is any length."""
    if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim == len(shape)):
        return False
    return all(expected in (None, length) for expected, length in zip(shape, value.shape, strict=True))


def one_per_image(value: Any, count: int, start: str, end: str = "") -> Tensor:
    """The value, if it is float [count]. Raises Finding for any other; the sentence describes it after `start`."""
    if not has_form(value, [count]):
        raise Finding(f"{start} {described(value)}{end}; expected float [{count}], one number per image")
    return value


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors; nan equals nan. Infinite if their shapes or the places of nan differ."""
    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    difference = (a.detach().double().cpu() - b.detach().double().cpu()).nan_to_num(0.0, posinf=float("inf"))
    return difference.abs().max().item() if difference.numel() else 0.0


def differ(what: str, a: Tensor, b: Tensor, tolerance: float) -> Iterator[str]:
    """One sentence that begins with `what`, if two tensors differ by more than the tolerance."""
    off = apart(a, b)
    if off == float("inf"):
        yield f"{what} {_short(a)} and {_short(b)}"
    elif not off <= tolerance:
        yield f"{what} they differ by up to {off:.3g} (tolerance {tolerance:g})"


def _short(value: Tensor) -> str:
    return str([round(number, 4) for number in value.tolist()]) if value.ndim == 1 else described(value)


def _collected(check: Iterator[str]) -> list[str]:
    found = []
    try:
        for sentence in check:
            found.append(sentence)
    except Finding as last:
        found.append(str(last))
    return found


def _in_turn(checks: Iterable[Iterator[str]]) -> Iterator[str]:
    """The sentences of all checks, or of the first check alone if it has any."""
    for number, check in enumerate(checks):
        found = _collected(check)
        yield from found
        if found and number == 0:
            return


@contextmanager
def _random_state_restored() -> Iterator[None]:
    """Within, global random numbers may be drawn; afterwards, the state of all generators is as before."""
    plain, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numpys)


def _parameters(kind: str, cls: Any, given: Mapping[str, Any]) -> Iterator[str]:
    if not (cls.__doc__ or "").strip():
        yield f"{cls.__name__} has no docstring; `dp plugins show` shows its first line"
    for name, field in cls.Params.model_fields.items():
        key = field.alias or name
        if not (field.description or "").strip():
            yield f"the parameter `{key}` has no description; write Field(..., description=...)"
        if key in RESERVED[kind]:
            yield f"the parameter `{key}` has a reserved name, which a spec uses itself; rename it"
    if kind in MEMORY_KINDS:
        yield from _memory_options(cls)
    try:
        registry.validated(cls.Params, {**given, UNKNOWN: 1})
    except ValidationError as error:
        if UNKNOWN not in str(error):
            yield f"the error for the unknown parameter `{UNKNOWN}` does not name it: {_in_one_line(error)}"
    except Exception as error:
        yield f"an unknown parameter raises {type(error).__name__} ({error}); expected a ValidationError"
    else:
        yield f"Params accepts the unknown parameter `{UNKNOWN}`; it must refuse extra keys"


def _memory_options(cls: Any) -> Iterator[str]:
    """A parameter with the name of a memory option has a type that `dp plan` can read and set as one."""
    options: dict[str, Any] = TypeAdapter(MemoryOptions).json_schema()["properties"]
    del options["offered"]  # which is not a parameter
    schema: dict[str, Any] = cls.Params.model_json_schema(by_alias=False)
    for name in [name for name in cls.Params.model_fields if name in options]:
        found, expected = _json_types(schema["properties"][name], schema), _json_types(options[name], schema)
        if not found <= expected:
            yield (
                f"the parameter `{name}` is {_either(found)}; expected {_either(expected)}, because dualproc reads"
                f" `{name}` as a memory option (dualproc.protocols.MemoryOptions); rename it if it means something else"
            )


def _json_types(field: Mapping[str, Any], schema: Mapping[str, Any]) -> set[str]:
    """The JSON types of a field's values; `anything` if its schema does not restrict them."""
    if "$ref" in field:
        return _json_types(schema["$defs"][field["$ref"].rsplit("/", 1)[-1]], schema)
    if options := field.get("anyOf") or field.get("oneOf") or field.get("allOf"):
        return {kind for option in options for kind in _json_types(option, schema)}
    return {field.get("type", "anything")}


def _either(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds, key=lambda kind: (kind == "null", kind)))


def _built(kind: str, cls: Any, given: Mapping[str, Any], checks: Checks) -> Iterator[str]:
    """Build the plugin, check the signatures of its methods, then run the checks of its kind."""
    try:
        params = registry.validated(cls.Params, given)
    except ValidationError as error:
        raise Finding(f"the parameters {dict(given)} of this check are not valid: {_in_one_line(error)}") from error
    except Exception as error:
        raise Finding(f"Params raised {type(error).__name__}: {error}; expected a ValueError") from error
    if "path" in cls.Params.model_fields:
        yield from _missing_file(cls, given)
    live = call(f"{cls.__name__}(params)", cls, params)
    protocol = registry.PROTOCOLS[kind]
    properties = [name for name, value in vars(protocol).items() if isinstance(value, property)]
    if lacks := [name for name in properties if not call(f"the property {name}", hasattr, live, name)]:
        raise Finding(f"{cls.__name__} lacks {', '.join(lacks)}")
    wrong = list(_signatures(live, protocol))
    yield from wrong
    if not wrong:
        yield from _in_turn(checks(live))


def _missing_file(cls: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """A missing file is an error in the user's input: it must be reported as one, with the file's name."""
    try:
        cls(registry.validated(cls.Params, {**given, "path": "no/such/file"}))
    except (DualprocError, ValueError) as error:
        if "no/such/file" not in str(error):
            yield f"the error for a `path` that does not exist does not name the path: {error}"
    except Exception as error:
        yield f"a `path` that does not exist raises {type(error).__name__}: {error}; expected a PluginError"


def _signatures(live: Any, protocol: type) -> Iterator[str]:
    """Each method can be called as in the protocol: with all arguments, and with the required ones only."""
    for name, declared in registry.methods(protocol).items():
        parameters = [p.replace(annotation=p.empty) for p in inspect.signature(declared).parameters.values()][1:]
        own = inspect.signature(getattr(live, name))
        for every in (True, False):
            used = [p for p in parameters if every or p.default is p.empty]
            named = [p.name for p in used if p.kind is p.KEYWORD_ONLY]
            try:
                own.bind(*[None] * (len(used) - len(named)), **dict.fromkeys(named))
            except TypeError as error:
                yield f"the engine calls {name}{inspect.Signature(parameters)}, but the plugin has {name}{own}: {error}"
                break


def _in_one_line(error: ValidationError) -> str:
    """All mistakes of a pydantic error, in one line."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
