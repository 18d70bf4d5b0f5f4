"""The worst case near an image, and near the LoRA: where the gradient is taken with `train.worst_case`.

A reward that falls at once if pixels or weights change a little has been raised by a feature that only the judge sees.
The gradient at the worst place nearby does not climb such a peak (RSA-FT, arXiv 2603.21175; for weights, SAM, arXiv
2010.01412). The worst place is found with one step along the gradient, so each kind costs its part of a training step
once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .average import restored

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-12
"""Instead of the length of a gradient that is 0."""


def worst_images(images: Tensor, radius: float, reward: Callable[[Tensor], Tensor]) -> Tensor:
    """Images [B, 3, H, W], moved to where their reward [B] is lower; differentiable with respect to `images`.

    `radius` is the root mean square of the change, with pixels in [0, 1].
    """
    import torch

    if not radius:
        return images
    probe = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(probe).sum(), probe)
    length = gradient.flatten(1).norm(dim=1).clamp(min=TINY)[:, None, None, None]
    change: Tensor = radius * math.sqrt(images[0].numel()) / length * gradient
    return images - change


@contextmanager
def worst_weights(weights: Sequence[Tensor], radius: float, gradient: Callable[[], object]) -> Iterator[None]:
    """Within, `weights` are moved by `radius` (the length of the change) to where the loss is higher.

    `gradient()` sets the gradient of the loss with respect to each of them, as `backward` does.
    """
    import torch

    if not radius:
        yield
        return
    gradient()
    slopes = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
    length = torch.stack([slope.norm() for slope in slopes]).norm().clamp(min=TINY)
    with restored(weights):
        with torch.no_grad():
            for weight, slope in zip(weights, slopes, strict=True):
                weight.add_(radius * slope / length)
        yield
