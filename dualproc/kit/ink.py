"""Ink: the outlines of a drawing, found as areas that are dark and narrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WIDEST = 0.09
"""Dark areas wider than this share of the image height are not outlines."""


def ink_map(images: Tensor, level: float = 0.0) -> Tensor:
    """[B, 1, H, W] in [0, 1]: how much of each pixel of `images` [B, 3, H, W] in [0, 1] is ink. No gradient.

    The ink of a pixel is the black top-hat (a grey-scale closing of the luminance minus the luminance), as a share of
    the distance from its surroundings to `level`, the luminance of pure ink in [0, 1).
    """
    luminance = images.new_tensor([0.299, 0.587, 0.114]) @ images.detach().flatten(2)
    luminance = luminance.view(len(images), 1, *images.shape[-2:])
    around = _closing(luminance, 2 * round(WIDEST * images.shape[-2] / 2) + 1)
    return ((around - luminance) / (around - level).clamp(min=0.1)).clamp(0, 1)


def _closing(x: Tensor, size: int) -> Tensor:
    """Grey-scale closing of `x` [B, 1, H, W] by a square of `size` pixels: fills dark areas that are narrower."""
    return -_highest(-_highest(x, size), size)


def _highest(x: Tensor, size: int) -> Tensor:
    """The highest value in a square of `size` pixels around each pixel: first along columns, then along rows."""
    import torch.nn.functional as F

    pad = size // 2
    return F.max_pool2d(F.max_pool2d(x, (size, 1), 1, (pad, 0)), (1, size), 1, (0, pad))
