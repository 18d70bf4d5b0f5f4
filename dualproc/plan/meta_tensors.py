"""Tensors without data: real code runs on models without weights and computes nothing but shapes.

Within `without_weights()`, models are built from their configurations on torch's `meta` device. What is computed from a
weight has no data either. Everything else (tokens, schedules, position ids, masks) is computed for real, on the CPU,
because code depends on its values. Autograd, activation checkpointing and the optimiser run as usual, so the cost of a
training step can be counted: which tensors are alive at any moment, and how many floating-point operations there are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry

from dualproc.kit.patching import replaced

from .ledger import Ledger
from .meta_models import built_from_configs

if TYPE_CHECKING:
    from torch import Tensor, nn

META = torch.device("meta")
aten = torch.ops.aten


class MetaMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes values where there is data, shapes alone where there is none; enters both in the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger, self.making = ledger, False
        """`making`: tensors requested on `meta` have no data; otherwise they are made for real."""
        self.known: dict[Any, Any] = {}
        """The shapes that operations return, by their arguments: models repeat the same blocks many times."""
        self.aliasing: dict[Any, bool] = {}
        """Whether an operation returns or changes its arguments, so that it must be run each time."""

    @contextmanager
    def building(self) -> Iterator[None]:
        """Within, models are built without data."""
        self.making = True
        try:
            with META:
                yield
        finally:
            self.making = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors(args, kwargs))
        if any(each.is_meta for each in tensors):
            out = self._shapes(func, args, kwargs)
        else:
            # Code puts its tensors where the weights are; only weights (those of a LoRA) stay there.
            data = not self.making and not (tensors and isinstance(tensors[0], torch.nn.Parameter))
            if data and kwargs.get("device") == META:
                kwargs = {**kwargs, "device": torch.device("cpu")}
            out = func(*args, **kwargs)
        made = list(_tensors((out,), {}))
        if made:
            device = self.ledger.device_of(tensors)
            for each in made:
                self.ledger.add(each, device, weight=self.making and not tensors)
            if count := flop_registry.get(func._overloadpacket):
                self.ledger.operations[made[0].dtype] += count(*args, **kwargs, out_val=out)
        return out

    def _shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What `func` returns, without data; worked out once for arguments of the same shapes."""
        if func not in self.aliasing:
            values = (*func._schema.arguments, *func._schema.returns)
            self.aliasing[func] = any(value.alias_info for value in values) or func in _ANSWERS or func in _BY_MASK
        if self.aliasing[func]:
            return _shapes(func, args, kwargs)
        key = (func, _described(args), *((name, _described(value)) for name, value in kwargs.items()))
        if key in self.known:
            return _made(self.known[key])
        out = _shapes(func, args, kwargs)
        self.known[key] = _described(out)
        return out


@dataclass(frozen=True)
class _Described:
    """What a tensor without data is made from."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _described(value: Any) -> Any:
    """A value by which operations find their shapes: tensors by theirs, all others by themselves and their type."""
    if isinstance(value, torch.Tensor):
        return _Described(value.shape, value.stride(), value.dtype)
    if isinstance(value, (tuple, list)):
        return type(value), tuple(map(_described, value))
    return type(value), value


def _made(described: Any) -> Any:
    """Tensors without data, and other values, from what `_described` returned."""
    if isinstance(described, _Described):
        return torch.empty_strided(described.shape, described.stride, dtype=described.dtype, device=META)
    kind, value = described
    return kind(map(_made, value)) if kind in (tuple, list) else value


def _tensors(args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists among them; torch operators take no deeper nesting."""
    for value in itertools.chain(args, kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (each for each in value if isinstance(each, torch.Tensor))


def _shapes(func: Any, args: Any, kwargs: Any) -> Any:
    """What `func` returns, without data; arguments with data are treated as if they had none."""
    if func in _ANSWERS:
        return _ANSWERS[func](args[0])
    if func in _BY_MASK:
        args = _places(*args)
    elif "device" not in kwargs and all(each.is_meta for each in _tensors(args, kwargs)):
        return func(*args, **kwargs)
    originals: dict[int, Tensor] = {}

    def emptied(tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=META)
        originals[id(made)] = tensor
        return made

    args, kwargs = tree_map_only(torch.Tensor, emptied, (args, kwargs))
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": META}
    out = func(*args, **kwargs)

    def itself(tensor: Tensor) -> Tensor:
        """What is changed in place stays a tensor with data; unknown values written into it count as 1."""
        own = originals.get(id(tensor))
        return tensor if own is None else own.fill_(1)

    return tree_map_only(torch.Tensor, itself, out)


def _unknown(tensor: Tensor) -> bool | int | float:
    """A value read from a tensor without data. Booleans are True: models test whether their input is valid."""
    return True if tensor.dtype == torch.bool else 1.0 if tensor.is_floating_point() else 1


def _places(tensor: Tensor, indices: Any, *rest: Any) -> tuple[Any, ...]:
    """Boolean masks among indices as index tensors; all places if the mask is unknown."""
    plain: list[Any] = []
    for index in indices:
        if index is None or index.dtype != torch.bool:
            plain.append(index)
        else:
            mask = torch.ones(index.shape, dtype=torch.bool) if index.is_meta else index
            plain += mask.nonzero().unbind(1)
    return tensor, plain, *rest


_ANSWERS: dict[Any, Callable[[Tensor], Any]] = {
    aten._local_scalar_dense.default: _unknown,
    aten.equal.default: lambda _: True,
}
_BY_MASK = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)


class _Crossing(torch.autograd.Function):
    """A differentiable step from tensors without data to tensors with data, or back."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, without: Tensor, known: bool) -> Tensor:
        """The same shape, all ones if `known`; `without` is any tensor without data."""
        ctx.without, ctx.known = without.new_empty(0), known
        return _ones(tensor, known, ctx.without)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _ones(grads[0], not ctx.known, ctx.without), None, None


def _ones(tensor: Tensor, known: bool, without: Tensor) -> Tensor:
    return (
        torch.ones(tensor.shape, dtype=tensor.dtype) if known else without.new_empty(tensor.shape, dtype=tensor.dtype)
    )


class MixedMode(TorchFunctionMode):
    """Where tensors with and without data meet, converts gradients from one kind to the other.

    This happens where images are written into a tensor that was allocated for them, such as one with room for padding.
    Tensors that torch's own functions allocate to hold tensors without data have none either.
    """

    def __init__(self, meta: MetaMode) -> None:
        super().__init__()
        self.meta = meta

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors(args, kwargs))
        without = next((each for each in tensors if each.is_meta), None)
        differentiable = torch.is_grad_enabled() and any(each.requires_grad for each in tensors)
        name = getattr(func, "__name__", "")
        mixed = without is not None and differentiable and not all(each.is_meta for each in tensors)
        if without is not None and mixed and not re.fullmatch(r"_[^_]\w*|__[gs]et__", name):
            known = not tensors[0].is_meta and bool(re.fullmatch(r"__setitem__|\w*[^_]_", name))

            def cross(tensor: Tensor) -> Tensor:
                if tensor.requires_grad and tensor.is_meta == known:
                    crossed: Tensor = _Crossing.apply(tensor, without, known)
                    return crossed
                return tensor

            args, kwargs = tree_map_only(torch.Tensor, cross, (args, kwargs))
        if without is None or isinstance(func, FunctionType):  # a Python function: what it calls is not torch's own
            return func(*args, **kwargs)
        before, self.meta.making = self.meta.making, True
        try:
            return func(*args, **kwargs)
        finally:
            self.meta.making = before


def _attention(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Attention that does not keep the matrix of all pairs, as with data; torch has such a kernel for `meta` too."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        if not query.is_meta:
            return real(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        out: Tensor = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
        )[0]
        return out

    return attend


def _readable(real: Callable[..., Any]) -> Callable[..., Any]:
    """A reader of a tensor's values (`numpy`, `tolist`) that reads zeros from a tensor without data."""

    def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        return real(torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor, *args, **kwargs)

    return read


def _with_data(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A maker of tensors from values (`tensor`) that keeps the values where weights have none."""

    def make(*args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("device") is not None and torch.device(kwargs["device"]) == META:
            kwargs["device"] = "cpu"
        return real(*args, **kwargs)

    return make


@contextmanager
def without_weights(built: Callable[[str, nn.Module], None] = lambda *_: None) -> Iterator[Ledger]:
    """Within, models have no weights, values that depend on weights are not computed, and the ledger counts all.

    `built` is told the name or folder of every model, and the model.
    """
    ledger = Ledger()
    mode = MetaMode(ledger)

    def backward(real: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            ledger.begin_backward()
            with MixedMode(mode):  # torch has left it, but recomputed blocks need it
                return real(*args, **kwargs)

        return run

    changes = (
        (torch.autograd, "_engine_run_backward", backward),
        (F, "scaled_dot_product_attention", _attention),
        (torch.Tensor, "numpy", _readable),
        (torch.Tensor, "tolist", _readable),
        (torch, "tensor", _with_data),
        (torch, "as_tensor", _with_data),
    )
    with META:
        torch.empty(0)  # on first use, torch records which functions take a device; they must be torch's own
    with ExitStack() as stack:
        for owner, name, ours in changes:
            stack.enter_context(replaced(owner, name, ours(getattr(owner, name))))
        stack.enter_context(built_from_configs(mode.building, built))
        stack.enter_context(mode)
        stack.enter_context(MixedMode(mode))
        yield ledger
