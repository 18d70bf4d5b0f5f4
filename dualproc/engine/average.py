"""The exponential moving average of the LoRA's weights over the training steps (EMA)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Average:
    """An average of weights; without a decay, there is none, and nothing is done."""

    def __init__(self, decay: float) -> None:
        """`decay`: how much of the average each step keeps."""
        self.decay = decay
        self.values: list[Tensor] = []

    def update(self, weights: Sequence[Tensor], step: int) -> None:
        """Add the weights after a training step, counted from 0. At first, fewer of the steps before count."""
        if not self.decay:
            return
        if not self.values:
            self.values = [weight.detach().clone() for weight in weights]
        decay = min(self.decay, (1 + step) / (10 + step))
        for value, weight in zip(self.values, weights, strict=True):
            value.lerp_(weight.detach(), 1 - decay)

    def take(self, weights: Sequence[Tensor]) -> None:
        """Set the weights to the average."""
        if self.values:
            set_to(weights, self.values)

    @contextmanager
    def swapped(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Within, the weights are the average."""
        with restored(weights) if self.values else nullcontext():
            self.take(weights)
            yield


def set_to(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Set weights to these values."""
    import torch

    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)


@contextmanager
def restored(weights: Sequence[Tensor]) -> Iterator[None]:
    """On leaving, the weights are what they were."""
    before = [weight.detach().clone() for weight in weights]
    try:
        yield
    finally:
        set_to(weights, before)
