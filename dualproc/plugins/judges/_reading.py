"""Token sequences for a vision-language model: joined to batches, split after a common prefix, the image encoded once.

A row is a processor's tensors for the tokens of one prompt: `input_ids` and any other tensor with a value per token,
each [1, S, ...] for S tokens. Rows are joined with padding on the right. A causal model reads them without an attention
mask: no token attends to later ones, so every token is read as it would be alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from dualproc.kit.patching import replaced

if TYPE_CHECKING:
    from torch import Tensor, nn

Row = Mapping[str, "Tensor"]


def per_token(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors among a processor's outputs that have a value per token, except the attention mask."""
    extent = inputs["input_ids"].shape
    return {name: v for name, v in inputs.items() if v.shape[:2] == extent and name != "attention_mask"}


def length(row: Row) -> int:
    """The number of tokens of a row."""
    return row["input_ids"].shape[1]


def cut(row: Row, start: int = 0, stop: int | None = None) -> Row:
    """The tokens from `start` to `stop`, which is excluded."""
    return {name: value[:, start:stop] for name, value in row.items()}


def extended(row: Row, ids: Sequence[int], like: Row) -> Row:
    """The row followed by the tokens `ids`; `like`, a row of one token, has their values of the other tensors."""
    import torch

    if not ids:
        return row
    more = {name: like[name].expand(-1, len(ids), *like[name].shape[2:]) for name in row}
    more["input_ids"] = torch.tensor([ids], device=row["input_ids"].device)
    return {name: torch.cat([value, more[name]], dim=1) for name, value in row.items()}


def joined(rows: Sequence[Row], like: Row) -> Row:
    """All rows as one batch, padded on the right with token 0; `like` as for `extended`."""
    import torch

    longest = max(map(length, rows))
    padded = [extended(row, [0] * (longest - length(row)), like) for row in rows]
    return {name: torch.cat([row[name] for row in padded]) for name in rows[0]}


def mask(rows: Sequence[Row]) -> Tensor:
    """The attention mask [R, S] of the batch that `joined` makes of R rows: 0 for padding."""
    import torch

    lengths = torch.tensor([length(row) for row in rows])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()


def shared_length(rows: Sequence[Row], counts: Sequence[int]) -> int:
    """The length of the prefix that all rows share; it leaves at least the last `counts[r]` tokens of row r."""
    ids = [row["input_ids"][0].tolist() for row in rows]
    equal = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*ids, strict=False)))
    return min(equal, *(len(one) - count for one, count in zip(ids, counts, strict=True)))


def last_positions(rows: Sequence[Row], counts: Sequence[int]) -> tuple[Tensor, list[list[int]]]:
    """The sorted positions of the last `counts[r]` tokens of all rows r, and for each row the indices of its own."""
    import torch

    own = [range(length(row) - count, length(row)) for row, count in zip(rows, counts, strict=True)]
    positions = sorted({position for row in own for position in row})
    return torch.tensor(positions), [[positions.index(position) for position in row] for row in own]


@contextmanager
def encoded_once(model: nn.Module) -> Iterator[None]:
    """Within, the first forward pass encodes the images, and later passes over the same images reuse the features.

    Needs the method `get_image_features`, which nearly all model families have; without it, every pass encodes them.
    """
    inner = _encoding(model)
    if inner is None:
        yield
        return
    encode, features = inner.get_image_features, list[Any]()

    def cached(*args: Any, **kwargs: Any) -> Any:
        if not features:
            features.append(encode(*args, **kwargs))
        return features[0]

    with replaced(inner, "get_image_features", cached):
        yield


def image_features(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """[N, D]: the features of the images' N tokens, as the language model reads them.

    They are taken from the model's own forward pass of `inputs`, because families call their encoders with different
    arguments. The pass ends there. None if no part of the model has the method `get_image_features`.
    """
    import torch

    inner = _encoding(model)
    if inner is None:
        return None
    encode = inner.get_image_features

    def only(*args: Any, **kwargs: Any) -> None:
        raise _Encoded(encode(*args, **kwargs))

    with replaced(inner, "get_image_features", only):
        try:
            model(**inputs)
        except _Encoded as encoded:
            (found,) = encoded.args
    found = getattr(found, "pooler_output", found)  # in transformers, this is what its projector returns
    tokens = found if isinstance(found, torch.Tensor) else torch.cat(list(found))
    return tokens.flatten(0, -2)


class _Encoded(Exception):  # noqa: N818 (not an error: it ends a forward pass)
    """The images are encoded."""


def _encoding(model: nn.Module) -> Any:
    """The part of the model that encodes images by its method `get_image_features`; None if no part has it."""
    owners = [part for part in model.modules() if callable(getattr(part, "get_image_features", None))]
    return owners[-1] if owners else None  # the outer ones only forward the call
