"""Image files of any origin, as the tensors that judges and scorers take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError

from . import files

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The image formats that are read, as Pillow calls them."""


def image_files(places: Sequence[str | PathLike[str]]) -> list[Path]:
    """The image files among files and folders, in order; those of a folder by name, without its subfolders.

    Opens each file, so that a broken one is reported before a model is loaded.

    Raises DualprocError if a file or folder does not exist, a folder has no images, or a file is not an image.
    """
    found = [file for place in places for file in _files(Path(place))]
    for file in found:
        with _opened(file):
            pass
    return found


def load_image(file: Path, *, max_pixels: int | None = None) -> Image:
    """An image file's first frame, rotated as its EXIF says, in 8-bit RGB, or RGBA if it has transparent parts.

    Raises DualprocError if the file is not an image of one of the `FORMATS`, is damaged, is not a regular file, or has
    more than `max_pixels` pixels (which is known before they are read).
    """
    from PIL import ImageOps

    with _opened(file) as image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise ValueError(f"it has {image.width} x {image.height} pixels, expected at most {max_pixels:,}")
        upright = _eight_bits(ImageOps.exif_transpose(image))
        return upright.convert("RGBA" if upright.has_transparency_data else "RGB")


def read_image(file: Path) -> Tensor:
    """[3, H, W], float, in [0, 1]: `load_image`, transparent parts over white, at its own size."""
    from PIL import Image

    image = load_image(file)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return to_tensor(image)


def to_tensor(image: Image) -> Tensor:
    """[C, H, W], float, in [0, 1], from an 8-bit Pillow image."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    pixels: Tensor = pil_to_tensor(image)
    return pixels.float() / 255


def batches(images: Iterable[Path], size: int) -> Iterator[Tensor]:
    """The images of files, in order, as batches [B, 3, H, W] of at most `size` neighbours of the same size."""
    import torch

    for _, alike in groupby(map(read_image, images), key=lambda image: image.shape):
        while batch := list(islice(alike, size)):
            yield torch.stack(batch)


def is_image_name(name: str | PathLike[str]) -> bool:
    """Whether a file name has the extension of one of the `FORMATS`."""
    from PIL import Image

    return Image.registered_extensions().get(Path(name).suffix.lower()) in FORMATS


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
        # Pillow goes by the content, and would start Ghostscript for PostScript in a file called `.png`.
        with files.opened(file) as content, Image.open(content, formats=FORMATS) as image:
            yield image
    except DualprocError:
        raise
    except Exception as error:  # Pillow's readers raise anything on a damaged file
        known = f"not an image of a known format ({', '.join(FORMATS)})"
        reason = known if isinstance(error, UnidentifiedImageError) else getattr(error, "strerror", None) or error
        raise DualprocError(f"{file} cannot be read as an image: {reason}") from error


def _eight_bits(image: Image) -> Image:
    """Grey of 16 bits with 8; Pillow's own `convert` would clip all but the darkest values."""
    import numpy as np
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if not image.mode.startswith("I"):
        return image
    grey = (np.asarray(image).astype(np.float64) / 257).round().clip(0, 255)
    return Image.fromarray(grey.astype(np.uint8))
