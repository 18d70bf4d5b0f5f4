"""A run's pictures as PNG files: the held-out ones, base and taught, one file each, and the grid of them all."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import make_folder, write_atomically
from .grids import before_after_grid, to_pictures

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BASE, TAUGHT, OVERLAID = "base", "taught", "what_the_judge_sees"
"""Subfolders of `samples/`."""
GRID = "before_after.png"
GRID_PICTURES = 12
"""How many columns the grid has in all; every picture is in the subfolders."""


def picture_names(prompts: Sequence[str], seeds: Sequence[int], *, ending: str = "") -> list[str]:
    """A file name a picture, in order, that says what it shows: `003-a-cartoon-of-an-owl-seed7{ending}.png`."""
    return [
        f"{index:03d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:60].rstrip('-')}-seed{seed}{ending}.png"
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]


def write_pictures(folder: Path, images: Tensor, names: Sequence[str]) -> list[Path]:
    """Write [B, 3, H, W] in [0, 1] as 8-bit PNGs, `names[b]` in `folder` (made if need be).

    Raises RunError if a file cannot be written.
    """
    make_folder(folder)
    paths = [folder / name for name in names]
    for path, picture in zip(paths, to_pictures(images), strict=True):
        write_atomically(path, png(picture), durable=False)
    return paths


def write_samples(
    samples: Path,
    base: Tensor,
    taught: Tensor,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    overlaid: Tensor | None = None,
) -> Path:
    """Write the held-out pictures of an evaluation ([B, 3, H, W] each, in its order) and the grid; says where that is.

    `overlaid` is `taught` with its visual prompt. Report and model card show what is written here.
    """
    names = picture_names(prompts, seeds)
    sets = {BASE: base, TAUGHT: taught} | ({} if overlaid is None else {OVERLAID: overlaid})
    for folder, images in sets.items():
        write_pictures(samples / folder, images, names)
    chosen = spread_out(prompts, GRID_PICTURES)
    grid = before_after_grid(
        base[chosen],
        taught[chosen],
        overlaid=None if overlaid is None else overlaid[chosen],
        captions=[prompts[index] for index in chosen],
    )
    write_atomically(samples / GRID, png(grid), durable=False)
    return samples / GRID


def spread_out(prompts: Sequence[str], most: int) -> list[int]:
    """Indices of at most `most` of the pictures, in order: one of each prompt first, then a second of each."""
    turns: Counter[str] = Counter()
    ranked = []
    for index, prompt in enumerate(prompts):
        ranked.append((turns[prompt], index))
        turns[prompt] += 1
    return sorted(index for _, index in sorted(ranked)[:most])


def png(picture: Image) -> bytes:
    """A picture as the content of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
