"""The visual prompt layer `image`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator

from dualproc.errors import PluginError
from dualproc.kit.canvas import Place, Size, pixels

if TYPE_CHECKING:
    from PIL import Image
    from typing_extensions import Self


class ImageLayer:
    """An image from a file, stretched to its place."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Which image, and where it lies."""

        path: str = Field(min_length=1, description="the image's file, relative to the spec that names it")
        at: Place = Field((0, 0), description="its upper left corner: [x, y], as shares of width and height")
        size: tuple[Size, Size] = Field((1, 1), description="[width, height], as shares of the image's")

        @model_validator(mode="after")
        def _inside(self) -> Self:
            if any(start + extent > 1 + 1e-9 for start, extent in zip(self.at, self.size, strict=True)):
                raise ValueError("the layer does not fit into the image: at + size is more than 1")
            return self

    def __init__(self, params: Params) -> None:
        """Read the image.

        Raises:
            PluginError: there is no such file, or it is not an image that Pillow can read.
        """
        self.params = params
        self._image = _read(Path(params.path))

    def draw(self, canvas: Image.Image) -> None:
        """Lay the image over its place; its transparent parts let the canvas through."""
        left, top = (round(value) for value in pixels(canvas, self.params.at))
        width, height = (max(1, round(value)) for value in pixels(canvas, self.params.size))
        canvas.alpha_composite(self._image.resize((width, height)), (left, top))


def _read(file: Path) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return image.convert("RGBA")
    except FileNotFoundError as error:
        hint = "in a spec built in Python, paths are relative to the current folder"
        raise PluginError(f"there is no file {file}", hint=hint) from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise PluginError(f"{file} is not an image that can be read: {error}", hint="use a PNG or JPEG") from error
