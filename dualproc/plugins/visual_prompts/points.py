"""The visual prompt layer `points`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field

from dualproc.kit.canvas import Color, Place, Size, fill_disc, pixels, text_size, write

if TYPE_CHECKING:
    from PIL.Image import Image


class Point(BaseModel, extra="forbid", frozen=True):
    """One dot."""

    at: Place = Field(description="Centre [x, y], as fractions of the image.")
    label: str | None = Field(None, min_length=1, description="Text beside the dot.")


class Points:
    """Dots, each with an optional label beside it."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The positions and look of the dots."""

        points: tuple[Point, ...] = Field(min_length=1, description="The dots: a list of {at: [x, y], label: text}.")
        radius: Size = Field(0.02, description="Radius of a dot, as a fraction of the image height.")
        color: Color = Field("red", description="Colour of dots and labels: a name or a hex value.")
        size: Size = Field(0.06, description="Font size of the labels, as a fraction of the image height.")

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw each dot with its label on the right or, if there is not enough space, on the left.

        Raises PluginError if a label is larger than the image.
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
