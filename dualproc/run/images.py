"""The image files of a run: their names, and tensors written as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import make_folder, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BASE, TRAINED, JUDGE_VIEW = "base", "trained", "judge_view"
"""Subfolders of `samples/`."""
PREVIEW = "preview"
"""The subfolder of `samples/` with the previews during training."""
GRID = "before_after.png"
STRIP = "strip_{}.png"
"""For each slider, by its name: images at values from end to end."""


def image_names(prompts: Sequence[str], seeds: Sequence[int], *, ending: str = "") -> list[str]:
    """One file name per image, in order, that says what it shows: `003-a-cartoon-of-an-owl-seed7{ending}.png`."""
    return [
        f"{index:03d}-{re.sub(r'[^a-z0-9]+', '-', prompt.lower()).strip('-')[:60].rstrip('-')}-seed{seed}{ending}.png"
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]


def preview_path(samples: Path, step: int) -> Path:
    """The file of the preview after a training step."""
    return samples / PREVIEW / f"step-{step:05d}.png"


def preview_files(samples: Path) -> list[tuple[int, Path]]:
    """The previews of a run, each with its training step, in order."""
    files = sorted((samples / PREVIEW).glob("step-*.png"))
    return [(int(file.stem.removeprefix("step-")), file) for file in files]


def write_images(folder: Path, images: Tensor, names: Sequence[str]) -> list[Path]:
    """Write [B, 3, H, W] in [0, 1] as 8-bit PNGs, `names[b]` in `folder`, which is made if it does not exist.

    Raises RunError if a file cannot be written.
    """
    make_folder(folder)
    paths = [folder / name for name in names]
    for path, image in zip(paths, to_pillow(images), strict=True):
        write_atomically(path, png(image), durable=False)
    return paths


def write_png(path: Path, image: Image) -> Path:
    """Write an image as PNG, into a folder that is made if it does not exist; RunError if it cannot be written."""
    make_folder(path.parent)
    write_atomically(path, png(image), durable=False)
    return path


def spread_out(prompts: Sequence[str], most: int) -> list[int]:
    """Indices of at most `most` of the images, in order: one of each prompt first, then a second of each."""
    turns = [prompts[:index].count(prompt) for index, prompt in enumerate(prompts)]
    return sorted(sorted(range(len(prompts)), key=turns.__getitem__)[:most])


def to_pillow(images: Tensor) -> list[Image]:
    """[B, 3, H, W] in [0, 1] as 8-bit Pillow images, rounded to the nearest value and clipped."""
    from PIL import Image as Pillow

    arrays = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Pillow.fromarray(array) for array in arrays]


def png(image: Image) -> bytes:
    """An image as the content of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
