"""The visual prompt layer `points`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field

from dualproc.kit.canvas import Color, Place, Size, fill_disc, pixels, text_size, write

if TYPE_CHECKING:
    from PIL.Image import Image


class Point(BaseModel, extra="forbid", frozen=True):
    """One dot."""

    at: Place = Field(description="its centre: [x, y], as shares of width and height")
    label: str | None = Field(None, min_length=1, description="text beside the dot")


class Points:
    """Dots with labels beside them."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Where the dots are and how they look."""

        points: tuple[Point, ...] = Field(min_length=1, description="the dots: {at: [x, y], label: text}")
        radius: Size = Field(0.02, description="radius of a dot, as a share of the image's height")
        color: Color = Field("red", description="a name or a hex value, for dots and labels")
        size: Size = Field(0.06, description="font size of the labels, as a share of the image's height")

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw every dot, its label to the right or, where there is no room, to the left.

        Raises:
            PluginError: a label is larger than the image.
        """
        radius, size = self.params.radius * canvas.height, self.params.size * canvas.height
        for point in self.params.points:
            x, y = pixels(canvas, point.at)
            fill_disc(canvas, (x, y), radius, self.params.color)
            if point.label is not None:
                gap = radius + size / 4
                fits = x + gap + text_size(point.label, size)[0] <= canvas.width
                place, anchor = ((x + gap, y), (0, 0.5)) if fits else ((x - gap, y), (1, 0.5))
                write(canvas, point.label, place, size, self.params.color, anchor=anchor)
