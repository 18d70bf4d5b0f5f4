"""The visual prompt: drawn with Pillow, composited over the images differentiably."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualproc.errors import DualprocWarning
from dualproc.kit.image_files import to_tensor
from dualproc.protocols import VisualPrompt
from dualproc.spec import VisualPromptSpec

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Shift = tuple[float, float]
"""To the right and downwards, as shares of the image's width and height."""
CANVAS = 512
"""Layers are drawn at least this large (pixels), then downscaled, so that widths below a pixel are exact."""
MAX_PIXELS = 2**24
"""An enlarged canvas has at most this many: an image of one row would otherwise take gigabytes."""


def draw_canvas(layers: Sequence[VisualPrompt], width: int, height: int) -> Image:
    """All layers on one transparent canvas, an integer number of times as large as the image, premultiplied.

    Warns (DualprocWarning) if the image is so thin that MAX_PIXELS limits how much larger.

    Premultiplied, because otherwise the transparent black around a red line would darken its edge in downscaling.
    """
    from PIL import Image

    wanted = -(-CANVAS // min(width, height))
    times = max(1, min(wanted, math.isqrt(MAX_PIXELS // (width * height))))
    if times < wanted:
        warnings.warn(
            f"the visual prompt is drawn less exactly on an image of {width} x {height} pixels: its canvas is {times}"
            f" times as large instead of {wanted} times, to limit memory; crop the image, or enlarge its shorter side",
            DualprocWarning,
            stacklevel=2,
        )
    canvas = Image.new("RGBA", (times * width, times * height))
    for layer in layers:
        layer.draw(canvas)
    return canvas.convert("RGBa")


def overlay(images: Tensor, spec: VisualPromptSpec, canvas: Image, shifts: Sequence[Shift] | None = None) -> Tensor:
    """Composite a visual prompt over images [B, 3, H, W] in [0, 1]; differentiable with respect to the images.

    `canvas` comes from `draw_canvas`, for images of this size. Each image's visual prompt is shifted by its own one of
    `shifts` (from `draw_shift`); without them, it stays in place.
    """
    import torch

    height, width = images.shape[-2:]
    shifts = shifts or [(0.0, 0.0)] * len(images)
    placed = {shift: to_tensor(_place(canvas, shift, width, height)) for shift in set(shifts)}
    rgba = torch.stack([placed[shift] for shift in shifts]).to(images)
    alpha = rgba[:, 3:] * (spec.opacity if spec.blend == "alpha" else 1.0)
    return images * (1 - alpha) + rgba[:, :3] * alpha


def draw_shift(spec: VisualPromptSpec, rng: random.Random) -> Shift:
    """A shift for one image, from the spec's jitter."""
    return rng.uniform(*spec.jitter.x), rng.uniform(*spec.jitter.y)


def _place(canvas: Image, shift: Shift, width: int, height: int) -> Image:
    """The canvas shifted (what leaves it is cut off) and downscaled to the image's size."""
    from PIL import Image

    moved = canvas
    if shift != (0.0, 0.0):
        moved = Image.new("RGBa", canvas.size)
        moved.paste(canvas, (round(shift[0] * canvas.width), round(shift[1] * canvas.height)))
    return moved.resize((width, height), Image.Resampling.BOX).convert("RGBA")
