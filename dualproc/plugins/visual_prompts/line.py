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
"""An arrow's head, in widths of its line."""


class Line:
    """A straight line of an exact thickness, as an arrow if wanted."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Where the line goes and how it looks."""

        start: Place = Field(alias="from", description="where it starts: [x, y], as shares of width and height")
        end: Place = Field(alias="to", description="where it ends: [x, y]; the arrow's head is here")
        width: Size = Field(description="thickness, as a share of the image's height")
        color: Color = Field("red", description="a name or a hex value")
        arrow: bool = Field(False, description="whether it ends in an arrow's head")

        @model_validator(mode="after")
        def _has_length(self) -> Self:
            if self.start == self.end:
                raise ValueError("'from' and 'to' are the same place")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the line with flat ends; its drawn width is `width` times the canvas height, fractions included."""
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
