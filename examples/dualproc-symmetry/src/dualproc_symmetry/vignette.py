"""The visual prompt layer `vignette`: shades the corners, so that the judge sees mainly the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field, field_validator

if TYPE_CHECKING:
    from PIL.Image import Image


class Vignette:
    """A shade that is transparent in the middle and becomes opaque towards the corners.

    Only the judge's view of the image is shaded, not the image itself. Where the shade is opaque, the image gets no
    gradient from the judge.
    """

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """Where the shade begins, its opacity and its colour."""

        start: float = Field(0.5, ge=0, lt=1, description="Where the shade begins: 0 is the middle, 1 the corners.")
        strength: float = Field(1.0, gt=0, le=1, description="Opacity in the corners; 1 hides them.")
        color: str = Field("black", description="Colour of the shade: a name or a hex value.")

        @field_validator("color")
        @classmethod
        def _known(cls, value: str) -> str:
            from PIL import ImageColor

            ImageColor.getrgb(value)
            return value

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Draw the shade onto an RGBA canvas, in place; contours of equal opacity have the canvas's aspect ratio."""
        import numpy as np
        from PIL import Image, ImageColor

        rows, columns = ((np.arange(length) + 0.5) / length - 0.5 for length in (canvas.height, canvas.width))
        radius = np.hypot(columns[None, :], rows[:, None]) / np.hypot(0.5, 0.5)
        share = ((radius - self.params.start) / (1 - self.params.start)).clip(0, 1)
        smooth = share * share * (3 - 2 * share)
        layer = Image.new("RGB", canvas.size, ImageColor.getrgb(self.params.color)[:3])
        layer.putalpha(Image.fromarray((255 * self.params.strength * smooth).round().astype(np.uint8)))
        canvas.alpha_composite(layer)
