"""Rows of tokens for a vision-language model to read: joined, cut where they part, the image encoded once.

A row is what a processor says of one prompt's tokens: `input_ids` and whatever else it has for each token, [1, S, ...]
each. Rows are joined with their padding on the right and read without an attention mask: a causal model never looks at
what comes later, and every token has the place that it would have alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Row = Mapping[str, "Tensor"]


def per_token(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of a processor's tensors that say something of every token, without the attention mask."""
    extent = inputs["input_ids"].shape
    return {name: v for name, v in inputs.items() if v.shape[:2] == extent and name != "attention_mask"}


def length(row: Row) -> int:
    """How many tokens a row has."""
    return row["input_ids"].shape[1]


def cut(row: Row, start: int = 0, stop: int | None = None) -> Row:
    """The tokens from `start` to before `stop`."""
    return {name: value[:, start:stop] for name, value in row.items()}


def extended(row: Row, ids: Sequence[int], like: Row) -> Row:
    """The row with the tokens `ids` after it; what else they need is said by `like`, a row of one token."""
    import torch

    if not ids:
        return row
    more = {name: like[name].expand(-1, len(ids), *like[name].shape[2:]) for name in row}
    more["input_ids"] = torch.tensor([ids], device=row["input_ids"].device)
    return {name: torch.cat([value, more[name]], dim=1) for name, value in row.items()}


def joined(rows: Sequence[Row], like: Row) -> Row:
    """All rows in one batch, the shorter ones padded on the right."""
    import torch

    longest = max(map(length, rows))
    padded = [extended(row, [0] * (longest - length(row)), like) for row in rows]
    return {name: torch.cat([row[name] for row in padded]) for name in rows[0]}


def shared_length(rows: Sequence[Row], counts: Sequence[int]) -> int:
    """How many tokens at the start are the same in all rows; the last `counts` of a row are never among them."""
    ids = [row["input_ids"][0].tolist() for row in rows]
    alike = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*ids, strict=False)))
    return min(alike, *(len(one) - count for one, count in zip(ids, counts, strict=True)))


def last_places(rows: Sequence[Row], counts: Sequence[int]) -> tuple[Tensor, list[list[int]]]:
    """The places of the last `counts` tokens of any row, and which of these places are each row's own."""
    import torch

    own = [range(length(row) - count, length(row)) for row, count in zip(rows, counts, strict=True)]
    places = sorted({place for row in own for place in row})
    return torch.tensor(places), [[places.index(place) for place in row] for row in own]


@contextmanager
def encoded_once(model: nn.Module) -> Iterator[None]:
    """Within, the first pass encodes the images, and further passes over the same images use what it found.

    Nearly all families of transformers encode images in a method of this name; where one does not, every pass does.
    """
    owners = [part for part in model.modules() if callable(getattr(part, "get_image_features", None))]
    if not owners:
        yield
        return
    inner: Any = owners[-1]  # the outer ones only pass the call on
    encode, found = inner.get_image_features, list[Any]()

    def remembered(*args: Any, **kwargs: Any) -> Any:
        if not found:
            found.append(encode(*args, **kwargs))
        return found[0]

    inner.get_image_features = remembered
    try:
        yield
    finally:
        del inner.get_image_features
