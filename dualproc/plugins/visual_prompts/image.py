"""The visual prompt layer `image`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from dualproc.errors import DualprocError, PluginError
from dualproc.kit.canvas import Box, Place, Size, box_pixels
from dualproc.kit.image_files import load_image

if TYPE_CHECKING:
    from PIL import Image


class ImageLayer:
    """An image file, stretched to fill a box."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The image file and its position."""

        path: str = Field(min_length=1, description="Image file, relative to the spec.")
        box: Box | None = Field(
            None, description="[left, top, right, bottom], as fractions of the image; the whole image if unset."
        )
        at: Place | None = Field(None, description="Older form of `box`: upper left corner [x, y].")
        size: tuple[Size, Size] | None = Field(None, description="Older form of `box`: [width, height].")

        @model_validator(mode="after")
        def _inside(self) -> Self:
            if self.box is not None and (self.at is not None or self.size is not None):
                raise ValueError("`box` is given twice: remove `at` and `size`, its older form")
            if max(self.area) > 1 + 1e-9:
                raise ValueError("the layer extends beyond the image: `at` + `size` is above 1")
            return self

        @property
        def area(self) -> tuple[float, float, float, float]:
            """[left, top, right, bottom], from either form."""
            if self.box is not None:
                return self.box
            (left, top), (width, height) = self.at or (0.0, 0.0), self.size or (1.0, 1.0)
            return left, top, left + width, top + height

    def __init__(self, params: Params) -> None:
        """Read the image file.

        Raises PluginError if the file does not exist, or Pillow cannot read it as an image.
        """
        self.params = params
        self._image = _read(Path(params.path))

    def draw(self, canvas: Image.Image) -> None:
        """Composite the image over its box; the canvas stays visible where the image is transparent."""
        left, top, right, bottom = box_pixels(canvas, self.params.area)
        size = max(1, round(right - left)), max(1, round(bottom - top))
        canvas.alpha_composite(self._image.resize(size), (round(left), round(top)))


def _read(file: Path) -> Image.Image:
    if not file.exists():
        hint = "paths are relative to the spec file, or to the current folder for a spec built in Python"
        raise PluginError(f"no such file: {file}", hint=hint)
    try:
        return load_image(file).convert("RGBA")
    except DualprocError as error:
        raise PluginError(error.message, hint="use a PNG or JPEG file") from error
