"""A prompt cache: replaces a pipeline's `encode_prompt` and assembles batches from prompts encoded once.

A training step draws its prompts at random, so batches hardly ever repeat, but prompts do. Pipelines return different
things (tensors with a row for each prompt, lists, position ids that are the same for any batch, masks that are left out
where nothing is padded). So the cache learns from the pipeline how its encoding of a batch is made of the encodings of
the prompts. A batch with a new prompt is encoded both ways and compared; if the two differ, the cache is switched off.
"""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dualproc.errors import DualprocWarning

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["rows", "list", "mask", "shared"]
Part = tuple[Any, ...]
"""What `encode_prompt` returns."""


@dataclass(frozen=True)
class Layout:
    """How the encoding of a batch is made of those of its prompts."""

    kinds: tuple[Kind, ...]
    """`rows`: concatenated and padded with zeros; `list`: concatenated; `mask`: 1 where a row is not padded, None if no
    row is; `shared`: the same for any batch."""
    uneven: bool
    """Whether it was learned from prompts of different lengths."""


class PromptCache:
    """Replaces a pipeline's `encode_prompt`: encodes each prompt once, alone, without gradient."""

    def __init__(
        self, encode: Callable[..., Any], ready: Callable[[], None], *, alone: bool = False, half: bool = False
    ) -> None:
        """`encode` is the pipeline's own method; `ready` is called before it, to load the text encoders.

        With `alone`, a prompt's encoding is the one that it has alone, and only the shapes of a batch are compared:
        in 8 bits, the encoding of a prompt depends on the outliers of the others in its batch. With `half`, encodings
        in bfloat16 become float16, for a backbone in float16.
        """
        self._encode, self._ready, self._alone, self._half = encode, ready, alone, half
        self._signature = inspect.signature(encode)
        self._parts: dict[tuple[Any, ...], Part] = {}
        self._layouts: dict[str, Layout] = {}
        self.joins = True
        """False once the pipeline's encoding of a batch differed from the joined encodings of its prompts."""

    @property
    def holds(self) -> bool:
        """Whether prompts are cached, so that the text encoders are not needed for them."""
        return self.joins and bool(self._parts)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the pipeline's own method returns, up to rounding."""
        bound = self._signature.bind(*args, **kwargs)
        texts, rest = _split(bound.arguments)
        if not self.joins or rest is None:
            return self._run(bound, {})
        keys = [(rest, *texts.items_of(row)) for row in range(texts.count)]
        new = [row for row, key in enumerate(keys) if key not in self._parts]
        for row in new:
            self._parts[keys[row]] = self._run(bound, {name: [each[row]] for name, each in texts.lists.items()})
        parts = [self._parts[key] for key in keys]
        if not all(isinstance(part, tuple) for part in parts):
            return self._give_up(bound)
        if len(parts) == 1:
            return _fresh(parts[0])
        layout = self._layouts.get(rest)
        if new or layout is None or (_uneven(parts) and not layout.uneven):
            return self._learn(bound, rest, parts)
        return join(parts, layout)

    def _learn(self, bound: inspect.BoundArguments, rest: str, parts: Sequence[Part]) -> Any:
        """The pipeline's own encoding of a batch, compared with the joined one, which is trusted from then on."""
        whole = self._run(bound, {})
        known = self._layouts.get(rest)
        try:
            if known is None or (_uneven(parts) and not known.uneven):
                known = learn(parts, whole)
            joined = join(parts, known)
            if same(joined, whole, exact=not self._alone):
                self._layouts[rest] = known
                return joined if self._alone else whole
        except (TypeError, ValueError, RuntimeError):
            pass  # its structure is unknown to `join`
        return self._give_up(bound, whole)

    def _give_up(self, bound: inspect.BoundArguments, whole: Any = None) -> Any:
        self.joins = False
        self._parts.clear()
        warnings.warn(
            "prompts are encoded again in every training step and the text encoders stay in memory: this pipeline"
            " encodes a batch differently from its single prompts",
            DualprocWarning,
            stacklevel=2,
        )
        return self._run(bound, {}) if whole is None else whole

    def _run(self, bound: inspect.BoundArguments, changes: dict[str, Any]) -> Any:
        """The pipeline's own method, with some arguments changed."""
        import torch

        self._ready()
        # Lists are copied: some pipelines write their prompt template into the list that they get.
        lists = {name: list(value) for name, value in bound.arguments.items() if isinstance(value, list)}
        again = inspect.BoundArguments(bound.signature, OrderedDict({**bound.arguments, **lists, **changes}))
        with torch.no_grad():
            made = self._encode(*again.args, **again.kwargs)
        if isinstance(made, tuple) and self._half:  # an encoder that overflows in float16 computes in bfloat16
            made = tuple(each.half() if getattr(each, "dtype", None) == torch.bfloat16 else each for each in made)
        return made


@dataclass(frozen=True)
class _Texts:
    """The arguments that hold one text per prompt."""

    lists: dict[str, list[str]]

    @property
    def count(self) -> int:
        return len(next(iter(self.lists.values())))

    def items_of(self, row: int) -> list[tuple[str, str]]:
        return [(name, each[row]) for name, each in self.lists.items()]


def _split(arguments: dict[str, Any]) -> tuple[_Texts, str | None]:
    """The texts, and everything else as a key; None if the arguments are not one text per prompt."""
    import torch

    def is_text(name: str, value: Any) -> bool:
        return "prompt" in name and isinstance(value, list) and bool(value) and all(isinstance(t, str) for t in value)

    texts = _Texts({name: value for name, value in arguments.items() if is_text(name, value)})
    others = {name: value for name, value in arguments.items() if name not in texts.lists}
    if "prompt" not in texts.lists or any(len(each) != texts.count for each in texts.lists.values()):
        return texts, None
    if any(isinstance(value, torch.Tensor) for value in others.values()):
        return texts, None
    return texts, repr(sorted(others.items()))


def learn(parts: Sequence[Part], whole: Part) -> Layout:
    """How `whole`, the encoding of a batch of at least two, is made of `parts`. Raises ValueError if unclear."""
    kinds = tuple(_kind(values, total) for *values, total in zip(*parts, whole, strict=True))
    return Layout(kinds, _uneven(parts))


def _kind(values: Sequence[Any], total: Any) -> Kind:
    import torch

    first = values[0]
    if isinstance(total, list):
        return "list"
    if isinstance(total, torch.Tensor) and all(value is None for value in values):
        return "mask"
    if isinstance(first, torch.Tensor) and first.ndim and total.shape[0] == sum(value.shape[0] for value in values):
        return "rows"
    return "shared"


def join(parts: Sequence[Part], layout: Layout) -> Part:
    """The encoding of a batch from those of its prompts."""
    columns = list(zip(*parts, strict=True))
    lengths: list[int] = []
    """The length of each prompt, from the first rows."""
    joined: list[Any] = []
    for kind, values in zip(layout.kinds, columns, strict=True):
        if kind == "rows":
            lengths = lengths or [value.shape[1] for value in values if value.ndim > 1]
            joined.append(_stacked(values))
        elif kind == "list":
            joined.append([each for value in values for each in value])
        elif kind == "mask":
            joined.append(_mask(lengths, joined[0].device))
        else:
            joined.append(values[0])
    return tuple(joined)


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """Tensors [n, L, ...] concatenated, those with a smaller L padded with zeros."""
    import torch

    if values[0].ndim < 2:
        return torch.cat(list(values))
    longest = max(value.shape[1] for value in values)
    padded = [
        torch.cat([value, value.new_zeros(value.shape[0], longest - value.shape[1], *value.shape[2:])], 1)
        for value in values
    ]
    return torch.cat(padded)


def _mask(lengths: Sequence[int], device: Any) -> Tensor | None:
    """[B, L]: 1 for the tokens of each row; None if all rows are equally long."""
    import torch

    if len(set(lengths)) == 1:
        return None
    return (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long().to(device)


def _uneven(parts: Sequence[Part]) -> bool:
    """Whether any tensors in the same place have different shapes."""
    import torch

    return any(len({v.shape for v in values if isinstance(v, torch.Tensor)}) > 1 for values in zip(*parts, strict=True))


def _fresh(part: Part) -> Part:
    """A copy whose lists a pipeline may change."""
    return tuple(list(value) if isinstance(value, list) else value for value in part)


def same(ours: Any, theirs: Any, *, exact: bool = True) -> bool:
    """Whether two encodings agree, token by token, up to rounding that depends on the batch size.

    If not `exact`, embeddings only need the same shape.
    """
    import torch

    if isinstance(ours, (tuple, list)):
        alike = isinstance(theirs, (tuple, list)) and len(ours) == len(theirs)
        return alike and all(same(*pair, exact=exact) for pair in zip(ours, theirs, strict=True))
    if not isinstance(ours, torch.Tensor):
        return bool(ours == theirs)
    if not isinstance(theirs, torch.Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if not ours.is_floating_point() or not ours.ndim:
        return torch.equal(ours, theirs)
    if not exact:
        return True
    tolerance = 1e-3 if ours.dtype == torch.float32 else 0.1
    apart = (ours.float() - theirs.float()).norm(dim=-1)
    return bool((apart <= tolerance * theirs.float().norm(dim=-1) + 1e-6).all())
