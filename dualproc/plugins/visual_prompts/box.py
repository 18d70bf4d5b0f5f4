"""The visual prompt layer `box`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator

from dualproc.kit.canvas import Color, Fraction, Place, fill_rectangle, pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import Self


class Box:
    """An upright rectangle: an outline, a filled area, or both."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Where the box is and how it looks."""

        start: Place = Field(alias="from", description="upper left corner: [x, y], as shares of width and height")
        end: Place = Field(alias="to", description="lower right corner: [x, y]")
        color: Color = Field("red", description="of the outline: a name or a hex value")
        width: Fraction = Field(
            0.01, description="thickness of the outline, inside the box, as a share of the image's height; 0: none"
        )
        fill: Color | None = Field(None, description="of the area inside the outline; none if left out")

        @model_validator(mode="after")
        def _has_area(self) -> Self:
            if not (self.start[0] < self.end[0] and self.start[1] < self.end[1]):
                raise ValueError("'from' must be above and to the left of 'to'")
            if self.width == 0 and self.fill is None:
                raise ValueError("neither an outline (width) nor an area (fill): nothing would be drawn")
            return self

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw outline and area side by side, so that half transparent colours do not add up."""
        params = self.params
        (left, top), (right, bottom) = pixels(canvas, params.start), pixels(canvas, params.end)
        width = min(params.width * canvas.height, (right - left) / 2, (bottom - top) / 2)
        inner_left, inner_top, inner_right, inner_bottom = left + width, top + width, right - width, bottom - width
        fill_rectangle(canvas, (left, top), (right, inner_top), params.color)
        fill_rectangle(canvas, (left, inner_bottom), (right, bottom), params.color)
        fill_rectangle(canvas, (left, inner_top), (inner_left, inner_bottom), params.color)
        fill_rectangle(canvas, (inner_right, inner_top), (right, inner_bottom), params.color)
        if params.fill is not None:
            fill_rectangle(canvas, (inner_left, inner_top), (inner_right, inner_bottom), params.fill)
