"""The visual prompt layer `box`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, model_validator
from typing_extensions import Self

from dualproc.kit.canvas import Box as Area
from dualproc.kit.canvas import Color, Fraction, Place, box_pixels, fill_rectangle

if TYPE_CHECKING:
    from PIL.Image import Image


class Box:
    """An upright rectangle: an outline, a filled area, or both."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Where the box is and how it looks."""

        box: Area | None = Field(None, description="[left, top, right, bottom], as fractions of the image")
        start: Place | None = Field(None, alias="from", description="older form of `box`: upper left corner [x, y]")
        end: Place | None = Field(None, alias="to", description="older form of `box`: lower right corner [x, y]")
        color: Color = Field("red", description="of the outline: a name or a hex value")
        width: Fraction = Field(
            0.01, description="thickness of the outline, inside the box, as a fraction of the image height; 0: none"
        )
        fill: Color | None = Field(None, description="of the area inside the outline; none if left out")

        @model_validator(mode="after")
        def _is_visible(self) -> Self:
            if self.box is None and (self.start is None or self.end is None):
                raise ValueError("`box` is missing: write [left, top, right, bottom]")
            left, top, right, bottom = self.area
            if not (left < right and top < bottom):
                raise ValueError("'from' must be above and to the left of 'to'")
            if self.width == 0 and self.fill is None:
                raise ValueError("neither an outline (width) nor an area (fill): nothing would be drawn")
            return self

        @property
        def area(self) -> tuple[float, float, float, float]:
            """Left, top, right, bottom, in whichever form they were given."""
            return self.box or (*(self.start or (0, 0)), *(self.end or (1, 1)))

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw outline and area side by side, so that half transparent colours do not add up."""
        params = self.params
        left, top, right, bottom = box_pixels(canvas, params.area)
        width = min(params.width * canvas.height, (right - left) / 2, (bottom - top) / 2)
        inner_left, inner_top, inner_right, inner_bottom = left + width, top + width, right - width, bottom - width
        fill_rectangle(canvas, (left, top), (right, inner_top), params.color)
        fill_rectangle(canvas, (left, inner_bottom), (right, bottom), params.color)
        fill_rectangle(canvas, (left, inner_top), (inner_left, inner_bottom), params.color)
        fill_rectangle(canvas, (inner_right, inner_top), (right, inner_bottom), params.color)
        if params.fill is not None:
            fill_rectangle(canvas, (inner_left, inner_top), (inner_right, inner_bottom), params.fill)
