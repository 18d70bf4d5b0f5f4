"""A pretended GPU: code for a GPU runs on a machine without one, and mistakes about devices raise the errors of a GPU.

    with pretended_gpu() as traffic:
        generator = small("flux", device="auto")     # `auto` is the pretended GPU
        ...
    print(traffic.waits)

A tensor of it says `device gpu:0`, while its data lie in main memory and the CPU computes. It refuses to meet a CPU
tensor that has dimensions, as CUDA does. Every operation that would make the program wait for a real GPU (`item()`,
`tolist()`, copies to the CPU, indexing by a mask) is counted, with the place in the code.

It finds wrong devices and needless waiting. It has neither kernels nor streams nor separate memory, and its numbers are
the CPU's. It occupies torch's slot for custom backends (`PrivateUse1`) for the whole process, under the name `gpu`;
enter it before the process's first backward pass, when autograd counts the devices.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from dualproc.kit.patching import replaced

NAME = "gpu"
aten = torch.ops.aten
COPYING = (aten._to_copy.default, aten.copy_.default, aten.copy.default, aten._copy_from.default)
INDEXING = (
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put_.default, aten.index_put.default,
    aten._index_put_impl_.default,
)  # fmt: skip
READING = (aten.index.Tensor, aten._unsafe_index.Tensor)
WAITING = (
    aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default,
    aten.is_nonzero.default,
)  # fmt: skip
"""Operations whose result the program has to wait for."""


@dataclass
class Traffic:
    """What passed between the program and the pretended GPU: how often, by kind and place in the code."""

    waits: Counter[str] = field(default_factory=Counter)
    """Where a program would wait for a real GPU."""
    copies: Counter[str] = field(default_factory=Counter)
    """Copies to the GPU; they need no waiting."""


@contextmanager
def pretended_gpu() -> Iterator[Traffic]:
    """Within, there is a GPU, and `auto` in a spec names it."""
    device, traffic = registered(), Traffic()

    def pick(real: Callable[[str], torch.device]) -> Callable[[str], torch.device]:
        return lambda wanted: device if wanted == "auto" else real(wanted)

    converts = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with ExitStack() as stack:
            for module in [m for name, m in sys.modules.items() if name.startswith("dualproc.")]:
                if "pick_device" in vars(module):
                    stack.enter_context(replaced(module, "pick_device", pick(module.pick_device)))
            stack.enter_context(replaced(Pretended, "traffic", traffic))
            stack.enter_context(Computing())
            yield traffic
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(converts)


class Pretended(torch.Tensor):
    """A tensor on the pretended GPU; `raw` has its data, on the CPU."""

    raw: torch.Tensor
    traffic = Traffic()
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Pretended:
        made: Pretended = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, raw.size(), strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype,
            layout=raw.layout, device=registered(), requires_grad=False,
        )  # fmt: skip
        made.raw = raw
        return made

    def __init__(self, raw: torch.Tensor) -> None:
        pass

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"Pretended({tuple(self.shape)}, {self.dtype})"

    def tolist(self) -> Any:
        self.traffic.waits[f"tolist: {place()}"] += 1
        return self.raw.detach().tolist()

    def __deepcopy__(self, memo: Any) -> Pretended:
        return type(self)(self.raw.clone()).requires_grad_(self.requires_grad)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


class Computing(TorchDispatchMode):
    """Sends operations that ask for the pretended GPU, or have tensors on it, to `computed`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch wraps the method below, which takes a tenth of the time

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        here = asked is not None and torch.device(asked).type == NAME
        if here or any(isinstance(each, Pretended) for each in tensors_in((args, kwargs))):
            return computed(func, args, kwargs)
        return func(*args, **kwargs)


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, computed on the CPU; refused where CUDA would refuse it."""
    tensors = list(tensors_in((args, kwargs)))
    ours = [each for each in tensors if isinstance(each, Pretended)]
    theirs = [each for each in tensors if not isinstance(each, Pretended)]
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if ours and theirs and func not in COPYING:
        refuse_mixed(func, args, theirs)
    count(func, args, asked, ours=bool(ours), theirs=bool(theirs))
    inner_args, inner_kwargs = mapped(lambda each: getattr(each, "raw", each), (args, kwargs))
    if asked is not None:
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    out = mapped(plain, func(*inner_args, **inner_kwargs))
    if func is aten.copy_.default:
        return args[0]
    if not (bool(ours) if asked is None else asked.type == NAME):
        return out
    out = mapped(lambda each: each if isinstance(each, Pretended) else Pretended(each), out)
    return return_and_correct_aliasing(func, args, kwargs, out) if ours else out


def tensors_in(value: Any) -> Iterable[torch.Tensor]:
    """The tensors among an operation's arguments; torch's own walk takes most of the time of a small operation."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors_in(each)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def mapped(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """The arguments or results of an operation, with its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([mapped(change, each) for each in value])
    if isinstance(value, dict):
        return {name: mapped(change, each) for name, each in value.items()}
    return value


def refuse_mixed(func: Any, args: Any, theirs: Sequence[torch.Tensor]) -> None:
    """Raises RuntimeError where CUDA does not take tensors of the CPU: all but numbers and what indexes."""
    if func in INDEXING:
        if not isinstance(args[0], Pretended):
            raise RuntimeError(f"indices should be on the CPU: {func} at {place()}")
        if func in READING or isinstance(args[2], Pretended) or not args[2].ndim:
            return
    if wrong := [tuple(each.shape) for each in theirs if each.ndim > 0]:
        message = f"Expected all tensors to be on the same device, but {func} got some on {NAME} and {wrong} on the CPU"
        print(f"{message}, at {place()}", file=sys.stderr, flush=True)  # in a backward pass, the process ends now
        raise RuntimeError(f"{message}, at {place()}")


def count(func: Any, args: Any, asked: torch.device | None, *, ours: bool, theirs: bool) -> None:
    """Note what passes between GPU and program."""
    traffic = Pretended.traffic
    if func is aten._to_copy.default and asked is not None and (asked.type == NAME) != ours:
        kind, counter = ("to the CPU", traffic.waits) if ours else ("to the GPU", traffic.copies)
    elif func is aten.copy_.default and ours and theirs:
        from_gpu = isinstance(args[1], Pretended)
        kind, counter = ("to the CPU", traffic.waits) if from_gpu else ("to the GPU", traffic.copies)
    elif func in WAITING and ours:
        kind, counter = str(func), traffic.waits
    elif func in INDEXING and ours and any(masks(index) for index in args[1]):
        kind, counter = "index by a mask", traffic.waits
    elif func in INDEXING and ours and theirs:
        kind, counter = "index to the GPU", traffic.copies
    else:
        return
    counter[f"{kind}: {place()}"] += 1


def masks(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Without pending conjugation or negation, which a wrapper cannot show."""
    return tensor if isinstance(tensor, Pretended) else tensor.resolve_conj().resolve_neg()


def place() -> str:
    """The two innermost lines of the program outside torch."""
    frame, found = sys._getframe(1), list[str]()
    while frame.f_back is not None and len(found) < 2:
        name = frame.f_code.co_filename
        if name != __file__ and "/torch/" not in name:
            found.append(f"{name.split('site-packages/')[-1]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found)


class Backend:
    """What torch asks the module of a device."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed(self, seed: int) -> None: ...

    def manual_seed_all(self, seed: int) -> None: ...

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None: ...

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_autocast_enabled(self) -> bool:
        return False

    def empty_cache(self) -> None: ...

    def synchronize(self, device: Any = None) -> None: ...

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        yield

    def _exchange_device(self, device: Any) -> int:
        return 0

    def _maybe_exchange_device(self, device: Any) -> int:
        return 0


@cache
def registered() -> torch.device:
    """The device, made known to torch once: its name, and the operations that do not go through Python's dispatch."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    library = torch.library.Library("aten", "IMPL")
    for name, operation in (
        ("empty_strided", aten.empty_strided.default),
        ("empty.memory_format", aten.empty.memory_format),
    ):
        library.impl(name, _empty(operation), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    library.impl("_local_scalar_dense", _item, "PrivateUse1")
    _libraries.append(library)
    return torch.device(NAME, 0)


_libraries: list[torch.library.Library] = []
"""Kept, for what they register ends with them."""


def _empty(operation: Any) -> Callable[..., Pretended]:
    def make(*args: Any, **kwargs: Any) -> Pretended:
        kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        return Pretended(operation(*args, **kwargs))

    return make


def _copy_from(source: Any, target: Any, _non_blocking: bool = False) -> Any:
    getattr(target, "raw", target).copy_(getattr(source, "raw", source))
    return target


def _item(tensor: Any) -> Any:
    Pretended.traffic.waits[f"item: {place()}"] += 1
    return tensor.raw.item()
