"""What all checks share: the plugin found and built, what is found wrong collected, tensors compared and described."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dualproc import registry
from dualproc.errors import DualprocError
from dualproc.protocols import KINDS

if TYPE_CHECKING:
    from pydantic import ValidationError
    from torch import Tensor

UNKNOWN = "no_such_parameter"
RESERVED = dict.fromkeys(KINDS, ("type",)) | {"anchors": ("type", "weight"), "judges": ("type", "weight")}
"""Keys beside a plugin's parameters that a spec reads itself: a parameter of such a name could not be set."""


class ConformanceError(AssertionError):
    """A plugin that does not keep to its protocol; `findings` has one sentence for each thing that is wrong."""

    def __init__(self, plugin: str, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{plugin} does not keep to its protocol:\n" + "\n".join(f"  - {found}" for found in findings))


class Finding(Exception):  # noqa: N818 - one sentence of a ConformanceError
    """Raised where what was found leaves nothing for the rest of a check to look at."""


def conform(
    kind: str,
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None,
    checks: Callable[[Any], Iterable[Iterator[str]]],
) -> None:
    """Check what all kinds have in common, build the plugin, and run the kind's own checks on it.

    `checks` are generators of sentences. The first looks whether results have the right form, and are the same when
    asked for again; where it finds anything, the others are left out, for they would say the same in other words.

    Raises:
        ConformanceError: with everything that was found.
        PluginError: no plugin of that name can be loaded.
    """
    label, cls, filled_in = _found(kind, plugin)
    given = {**filled_in, **(params or {})}
    with _own_randomness():
        findings = _collected(_class(kind, cls))
        if not findings:
            built: list[Any] = []
            findings += _collected(_parameters(kind, cls, given))
            findings += _collected(_building(kind, cls, given, built))
            for live in built:
                findings += _collected(_in_turn(checks(live)))
    if findings:
        raise ConformanceError(label, list(dict.fromkeys(findings)))


def call(name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What a plugin's method returns.

    Raises:
        Finding: it raised, or left gradients switched on or off for everybody.
    """
    import torch

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
            f"{name} leaves gradients switched {'on' if after else 'off'} for everything that comes after it; use"
            " torch.set_grad_enabled as a context"
        )
    return out


def gradients(value: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Of a number in each of the inputs, 0 where it does not depend on them; the graph is kept.

    Raises:
        Finding: a backward pass of the plugin's own raised.
    """
    import torch

    given: tuple[Tensor, ...] = call(
        "the backward pass", torch.autograd.grad, value, inputs, retain_graph=True, materialize_grads=True
    )
    return given


def backward(value: Tensor) -> None:
    """Put the gradients of a number into whatever it depends on.

    Raises:
        Finding: a backward pass of the plugin's own raised.
    """
    import torch

    call("the backward pass", torch.autograd.backward, value)


def described(value: Any) -> str:
    """A value as sentences name it: `float32 [2, 3, 64, 64]` for a tensor, else its type."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:80]


def has_form(value: Any, shape: Sequence[int | None]) -> bool:
    """Whether a value is a floating-point tensor of a shape, in which None is any length."""
    import torch

    if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim == len(shape)):
        return False
    return all(wanted in (None, length) for wanted, length in zip(shape, value.shape, strict=True))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors; nan counts as equal to nan, and other shapes are infinitely far apart."""
    import torch

    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    difference = (a.detach().double().cpu() - b.detach().double().cpu()).nan_to_num(0.0, posinf=float("inf"))
    return difference.abs().max().item() if difference.numel() else 0.0


def differ(what: str, a: Tensor, b: Tensor, tolerance: float) -> Iterator[str]:
    """One sentence, beginning with `what`, if two tensors differ by more than the tolerance."""
    off = apart(a, b)
    if off == float("inf"):
        yield f"{what} {_short(a)} and {_short(b)}"
    elif not off <= tolerance:
        yield f"{what} they differ by up to {off:.3g} (tolerance {tolerance:g})"


def _short(value: Tensor) -> str:
    return str([round(number, 4) for number in value.tolist()]) if value.ndim == 1 else described(value)


def _found(kind: str, plugin: type[Any] | str) -> tuple[str, Any, Mapping[str, Any]]:
    """How the sentences' head names the plugin, its class, and the parameters that presets fill in."""
    registry.require_kind(kind)
    if isinstance(plugin, str):
        loaded = registry.load(kind, plugin)
        return str(loaded.entry), loaded.cls, loaded.preset
    return f"{registry.singular(kind)} {getattr(plugin, '__qualname__', repr(plugin))}", plugin, {}


def _collected(check: Iterator[str]) -> list[str]:
    found = []
    try:
        for sentence in check:
            found.append(sentence)
    except Finding as last:
        found.append(str(last))
    return found


def _in_turn(checks: Iterable[Iterator[str]]) -> Iterator[str]:
    """The sentences of all checks; of the first one only, if it has any."""
    for number, check in enumerate(checks):
        found = _collected(check)
        yield from found
        if found and number == 0:
            return


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Within, the global random numbers may be used up: what comes after it draws what it would have drawn anyway."""
    import numpy as np
    import torch

    plain, numpys = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(numpys)


def _class(kind: str, cls: Any) -> Iterator[str]:
    """What `registry.load` refuses; with it, nothing can be built."""
    fault = registry.version_fault(cls)
    if fault is not None:
        yield fault
    yield from registry.class_faults(kind, cls)


def _parameters(kind: str, cls: Any, given: Mapping[str, Any]) -> Iterator[str]:
    from pydantic import ValidationError

    if not (cls.__doc__ or "").strip():
        yield f"{cls.__name__} has no docstring, whose first line `dp plugins show` would show"
    for name, field in cls.Params.model_fields.items():
        key = field.alias or name
        if not (field.description or "").strip():
            yield f"the parameter `{key}` has no description; write Field(..., description=...)"
        if key in RESERVED[kind]:
            yield f"no parameter may be called `{key}`: that key of a spec is dualproc's own"
    try:
        registry.validated(cls.Params, {**given, UNKNOWN: 1})
    except ValidationError as error:
        if UNKNOWN not in str(error):
            yield f"the unknown parameter `{UNKNOWN}` is refused with a message that does not name it: {_told(error)}"
    except Exception as error:
        yield f"an unknown parameter raises {type(error).__name__} ({error}) in Params instead of a ValidationError"
    else:
        yield f"the unknown parameter `{UNKNOWN}` is accepted; Params has to forbid extra keys"


def _building(kind: str, cls: Any, given: Mapping[str, Any], built: list[Any]) -> Iterator[str]:
    """Build the plugin, append it to `built`, and see whether it takes what the engine passes."""
    from pydantic import ValidationError

    try:
        params = registry.validated(cls.Params, given)
    except ValidationError as error:
        raise Finding(f"the parameters {dict(given)} of this check are not valid: {_told(error)}") from error
    except Exception as error:
        raise Finding(f"Params raised {type(error).__name__} instead of a ValueError: {error}") from error
    yield from _missing_file(cls, given)
    live = call(f"{cls.__name__}(params)", cls, params)
    protocol = registry.PROTOCOLS[kind]
    properties = [name for name, value in vars(protocol).items() if isinstance(value, property)]
    lacks = [name for name in properties if not call(f"the property {name}", hasattr, live, name)]
    if lacks:
        raise Finding(f"{cls.__name__} lacks {', '.join(lacks)}")
    wrong = list(_signatures(live, protocol))
    yield from wrong
    if not wrong:
        built.append(live)


def _missing_file(cls: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """A file that is not there is the user's mistake: it has to be told as one, without a traceback."""
    if "path" not in cls.Params.model_fields:
        return
    try:
        cls(registry.validated(cls.Params, {**given, "path": "no/such/file"}))
    except (DualprocError, ValueError) as error:
        if "no/such/file" not in str(error):
            yield f"for a `path` where no file is, the error does not name it: {error}"
    except Exception as error:
        yield f"for a `path` where no file is, it raises {type(error).__name__} instead of a PluginError: {error}"


def _signatures(live: Any, protocol: type) -> Iterator[str]:
    """Methods that cannot be called as the protocol says: with all arguments, and with the required ones only."""
    for name, wanted in vars(protocol).items():
        if not inspect.isfunction(wanted) or (name.startswith("_") and name != "__call__"):
            continue
        parameters = [p.replace(annotation=p.empty) for p in inspect.signature(wanted).parameters.values()][1:]
        own = inspect.signature(getattr(live, name))
        for every in (True, False):
            used = [p for p in parameters if every or p.default is p.empty]
            named = [p.name for p in used if p.kind is p.KEYWORD_ONLY]
            try:
                own.bind(*[None] * (len(used) - len(named)), **dict.fromkeys(named))
            except TypeError as error:
                yield f"{name} is called as {name}{inspect.Signature(parameters)}, but is {name}{own}: {error}"
                break


def _told(error: ValidationError) -> str:
    """What pydantic says, in one line."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
