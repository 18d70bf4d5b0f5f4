"""Picture files of any origin, read as the tensors that judges and scorers take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


def picture_files(places: Sequence[str | PathLike[str]]) -> list[Path]:
    """The pictures that files and folders (not the folders below them) come to, in order, a folder's by name.

    Their first bytes are looked at, so that what is no picture is known before a model is loaded.

    Raises DualprocError if there is no such file or folder, no picture in a folder, or a file that is no picture.
    """
    files = [file for place in places for file in _files(Path(place))]
    for file in files:
        with _opened(file):
            pass
    return files


def read_picture(file: Path) -> Tensor:
    """[3, H, W], float, in [0, 1]: turned as the camera says (EXIF), transparent parts over white, at its own size.

    Raises DualprocError if the file is no picture or is damaged.
    """
    import torch

    with _opened(file) as picture:
        plain = _plain(picture)
        data = torch.frombuffer(bytearray(plain.tobytes()), dtype=torch.uint8)
        return data.view(plain.height, plain.width, 3).permute(2, 0, 1).float() / 255


def batches(files: Iterable[Path], size: int) -> Iterator[Tensor]:
    """The pictures of files, in order, as batches [B, 3, H, W]: at most `size` neighbours that are equally large."""
    import torch

    waiting: list[Tensor] = []
    for file in files:
        picture = read_picture(file)
        if waiting and (len(waiting) == size or waiting[0].shape != picture.shape):
            yield torch.stack(waiting)
            waiting = []
        waiting.append(picture)
    if waiting:
        yield torch.stack(waiting)


def is_picture_name(name: str | PathLike[str]) -> bool:
    """Whether a file of this name is, by its ending, a picture that can be read."""
    from PIL import Image

    kind = Image.registered_extensions().get(Path(name).suffix.lower(), "")
    return kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        if not place.exists():
            raise DualprocError(f"there is no picture or folder {place}")
        return [place]
    found = sorted(file for file in place.iterdir() if is_picture_name(file) and not file.name.startswith("."))
    if not found:
        below = sorted({file.parent for file in place.glob("*/*") if is_picture_name(file)})
        hint = f"there are some in {', '.join(map(str, below[:5]))}" if below else None
        raise DualprocError(f"the folder {place} has no pictures", hint=hint)
    return found


@contextmanager
def _opened(file: Path) -> Iterator[Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            yield picture
    except DualprocError:
        raise
    except Exception as error:  # the readers of Pillow raise anything on a damaged file
        reason = "no picture of a known format" if isinstance(error, UnidentifiedImageError) else error
        raise DualprocError(f"{file} cannot be read as a picture: {reason}") from error


def _plain(picture: Image) -> Image:
    """The first frame, upright, in RGB of 8 bits."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):
        return _eight_bits(upright)
    if upright.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of a range that it does not tell")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    shown = upright.convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(white, shown).convert("RGB")


def _eight_bits(grey: Image) -> Image:
    """A picture of 16 bits of grey, of which Pillow's own `convert` would clip all but the darkest."""
    import numpy as np
    from PIL import Image

    values = (np.asarray(grey).astype(np.float64) / 257).round().clip(0, 255)
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
