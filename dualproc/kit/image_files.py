"""Image files of any origin, as the tensors that judges and scorers take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def image_files(places: Sequence[str | PathLike[str]]) -> list[Path]:
    """The image files among files and folders, in order; those of a folder by name, without its subfolders.

    Opens each file, so that a broken one is reported before a model is loaded.

    Raises DualprocError if a file or folder does not exist, a folder has no images, or a file is not an image.
    """
    files = [file for place in places for file in _files(Path(place))]
    for file in files:
        with _opened(file):
            pass
    return files


def read_image(file: Path) -> Tensor:
    """[3, H, W], float, in [0, 1]: rotated as its EXIF says, transparent parts over white, at its own size.

    Raises DualprocError if the file is not an image or is damaged.
    """
    with _opened(file) as image:
        return to_tensor(_rgb(image))


def to_tensor(image: Image) -> Tensor:
    """[C, H, W], float, in [0, 1], from an 8-bit Pillow image."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    pixels: Tensor = pil_to_tensor(image)
    return pixels.float() / 255


def batches(files: Iterable[Path], size: int) -> Iterator[Tensor]:
    """The images of files, in order, as batches [B, 3, H, W] of at most `size` neighbours of the same size."""
    import torch

    for _, alike in groupby(map(read_image, files), key=lambda image: image.shape):
        while batch := list(islice(alike, size)):
            yield torch.stack(batch)


def is_image_name(name: str | PathLike[str]) -> bool:
    """Whether a file name has the extension of an image format that can be read."""
    from PIL import Image

    kind = Image.registered_extensions().get(Path(name).suffix.lower(), "")
    return kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        if not place.exists():
            raise DualprocError(f"no such image or folder: {place}")
        return [place]
    found = sorted(file for file in place.iterdir() if is_image_name(file) and not file.name.startswith("."))
    if not found:
        below = sorted({file.parent for file in place.glob("*/*") if is_image_name(file)})
        hint = f"there are images in {', '.join(map(str, below[:5]))}" if below else None
        raise DualprocError(f"the folder {place} has no images", hint=hint)
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # Pillow's readers raise anything on a damaged file
        reason = "not an image of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise DualprocError(f"{file} cannot be read as an image: {reason}") from error


def _rgb(image: Image) -> Image:
    """The first frame, upright, in 8-bit RGB."""
    import numpy as np
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits; Pillow's own `convert` would clip all but the darkest values
        grey = (np.asarray(upright).astype(np.float64) / 257).round().clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if upright.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    shown = upright.convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(white, shown).convert("RGB")
