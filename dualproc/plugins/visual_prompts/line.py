"""The visual prompt layer `line`."""

from __future__ import annotations

from math import hypot
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator

from dualproc.kit.canvas import Color, Place, Size, fill_polygon, pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self

HEAD_LENGTH = 4
HEAD_BREADTH = 4
"""The length and breadth of an arrow head, as multiples of the width of its line."""


class Line:
    """A straight line or arrow of exact thickness."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The position and look of the line."""

        start: Place = Field(alias="from", description="Start [x, y], as fractions of the image.")
        end: Place = Field(alias="to", description="End [x, y], where an arrow has its head.")
        width: Size = Field(description="Thickness, as a fraction of the image height.")
        color: Color = Field("red", description="A name or a hex value.")
        arrow: bool = Field(False, description="Draw an arrow head at the end.")

        @model_validator(mode="after")
        def _has_length(self) -> Self:
            if self.start == self.end:
                raise ValueError("the line has no length: `from` and `to` are equal")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the line with flat ends, `width` times the canvas height thick, not rounded to whole pixels."""
        params = self.params
        (x0, y0), (x1, y1) = pixels(canvas, params.start), pixels(canvas, params.end)
        length, width = hypot(x1 - x0, y1 - y0), params.width * canvas.height
        along = (x1 - x0) / length, (y1 - y0) / length

        def corner(distance: float, aside: float) -> tuple[float, float]:
            return x0 + along[0] * distance - along[1] * aside, y0 + along[1] * distance + along[0] * aside

        shaft = length - min(length, HEAD_LENGTH * width) if params.arrow else length
        if shaft > 0:
            sides = [corner(0, -width / 2), corner(shaft, -width / 2), corner(shaft, width / 2), corner(0, width / 2)]
            fill_polygon(canvas, sides, params.color)
        if params.arrow:
            breadth = HEAD_BREADTH * width / 2
            fill_polygon(canvas, [corner(length, 0), corner(shaft, breadth), corner(shaft, -breadth)], params.color)
