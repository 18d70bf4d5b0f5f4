"""The visual prompt layer `swatches`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from dualproc.kit.canvas import Box, Color, Fraction, Size, box_pixels, fill_rectangle

if TYPE_CHECKING:
    from PIL.Image import Image

TOP, HEIGHT = 0.85, 0.15
"""The default strip, as fractions of the image height."""


class Swatches:
    """A colour palette: a strip of equal swatches, by default across the bottom of the image."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The colours and the position of the strip."""

        colors: tuple[Color, ...] = Field(
            min_length=1, description="From left to right: CSS names, hex values, or such as hsl(200, 55%, 75%)."
        )
        box: Box | None = Field(
            None, description="[left, top, right, bottom], as fractions of the image; [0, 0.85, 1, 1] if unset."
        )
        top: Fraction | None = Field(None, description="Older form of `box`: upper edge of a strip of full width.")
        height: Size | None = Field(None, description="Older form of `box`: height of a strip of full width.")

        @model_validator(mode="after")
        def _inside(self) -> Self:
            if self.box is not None and (self.top is not None or self.height is not None):
                raise ValueError("`box` is given twice: remove `top` and `height`, its older form")
            if self.area[3] > 1 + 1e-9:
                raise ValueError(f"the strip extends below the image: `top` + `height` is {self.area[3]:g}, above 1")
            return self

        @property
        def area(self) -> tuple[float, float, float, float]:
            """[left, top, right, bottom], from either form."""
            if self.box is not None:
                return self.box
            top = TOP if self.top is None else self.top
            return 0.0, top, 1.0, top + (HEIGHT if self.height is None else self.height)

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the swatches, without gaps between them."""
        colors = self.params.colors
        left, top, right, bottom = box_pixels(canvas, self.params.area)
        step = (right - left) / len(colors)
        for index, color in enumerate(colors):
            fill_rectangle(canvas, (left + index * step, top), (left + (index + 1) * step, bottom), color)
