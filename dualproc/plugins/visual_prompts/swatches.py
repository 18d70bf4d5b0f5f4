"""The visual prompt layer `swatches`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from dualproc.kit.canvas import Box, Color, Fraction, Size, box_pixels, fill_rectangle

if TYPE_CHECKING:
    from PIL.Image import Image

TOP, HEIGHT = 0.85, 0.15


class Swatches:
    """A colour palette: equal swatches side by side, by default across the bottom of the image."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Which colours, and where the strip goes."""

        colors: tuple[Color, ...] = Field(min_length=1, description="names or hex values, from left to right")
        box: Box | None = Field(
            None, description="[left, top, right, bottom], as fractions of the image; [0, 0.85, 1, 1] if left out"
        )
        top: Fraction | None = Field(None, description="older form of `box`: upper edge of a strip of full width")
        height: Size | None = Field(None, description="older form of `box`: height of a strip of full width")

        @model_validator(mode="after")
        def _inside(self) -> Self:
            if self.area[3] > 1 + 1e-9:
                raise ValueError(f"the strip ends below the image: top + height is {self.area[3]:g}")
            return self

        @property
        def area(self) -> tuple[float, float, float, float]:
            """Left, top, right, bottom, in whichever form they were given."""
            if self.box is not None:
                return self.box
            top = TOP if self.top is None else self.top
            return 0.0, top, 1.0, top + (HEIGHT if self.height is None else self.height)

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the swatches without gaps between them."""
        colors = self.params.colors
        left, top, right, bottom = box_pixels(canvas, self.params.area)
        step = (right - left) / len(colors)
        for index, color in enumerate(colors):
            fill_rectangle(canvas, (left + index * step, top), (left + (index + 1) * step, bottom), color)
