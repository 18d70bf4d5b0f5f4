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
    """An upright rectangle: outline, filled area, or both."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The position and look of the box."""

        box: Area | None = Field(None, description="[left, top, right, bottom], as fractions of the image.")
        start: Place | None = Field(
            None, alias="from", description="Older form of `box`, with `to`: upper left corner [x, y]."
        )
        end: Place | None = Field(
            None, alias="to", description="Older form of `box`, with `from`: lower right corner [x, y]."
        )
        color: Color = Field("red", description="Colour of the outline: a name or a hex value.")
        width: Fraction = Field(
            0.01, description="Thickness of the outline as a fraction of the image height, inside the box; 0 for none."
        )
        fill: Color | None = Field(None, description="Colour of the area inside the outline; not filled if unset.")

        @model_validator(mode="after")
        def _is_visible(self) -> Self:
            older = [corner for corner in (self.start, self.end) if corner is not None]
            if self.box is not None and older:
                raise ValueError("`box` is given twice: remove `from` and `to`, its older form")
            if self.box is None and len(older) < 2:
                raise ValueError("`box` is missing; expected [left, top, right, bottom]")
            left, top, right, bottom = self.area
            if not (left < right and top < bottom):
                raise ValueError("the box is empty; `from` must be above and to the left of `to`")
            if self.width == 0 and self.fill is None:
                raise ValueError("nothing would be drawn; set `width` for an outline, `fill` for an area, or both")
            return self

        @property
        def area(self) -> tuple[float, float, float, float]:
            """[left, top, right, bottom], from either form."""
            return self.box or (*(self.start or (0, 0)), *(self.end or (1, 1)))

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the outline and the area inside it without overlap, so that half transparent colours do not add up."""
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
