"""The visual prompt layer `swatches`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator

from dualproc.kit.canvas import Color, Fraction, Size, fill_rectangle

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self


class Swatches:
    """A colour palette: equal swatches side by side over the full width, at the bottom unless told otherwise."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Which colours, and where the strip lies."""

        colors: tuple[Color, ...] = Field(min_length=1, description="names or hex values, from left to right")
        top: Fraction = Field(0.85, description="upper edge of the strip, as a share of the image's height")
        height: Size = Field(0.15, description="height of the strip, as a share of the image's height")

        @model_validator(mode="after")
        def _inside(self) -> Self:
            if self.top + self.height > 1 + 1e-9:
                raise ValueError(f"the strip ends below the image: top + height is {self.top + self.height:g}")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the swatches without gaps between them."""
        colors = self.params.colors
        top, bottom = self.params.top * canvas.height, (self.params.top + self.params.height) * canvas.height
        step = canvas.width / len(colors)
        for index, color in enumerate(colors):
            fill_rectangle(canvas, (index * step, top), ((index + 1) * step, bottom), color)
