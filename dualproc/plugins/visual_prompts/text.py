"""The visual prompt layer `text`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, Field

from dualproc.kit.canvas import Color, Place, Size, pixels, write

if TYPE_CHECKING:
    from PIL.Image import Image

Anchor = Literal[
    "top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"
]  # fmt: skip


class Text:
    """Words written over the image; they never leave it."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """What is written, where and how."""

        text: str = Field(min_length=1, pattern=r"\S", description="the words (Latin letters); may have several lines")
        at: Place = Field(description="where: [x, y], as shares of width and height")
        size: Size = Field(0.06, description="font size, as a share of the image's height")
        color: Color = Field("red", description="a name or a hex value")
        anchor: Anchor = Field("center", description="which point of the words stands at the place")

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Write the words, moved as little as needed to stay inside the image.

        Raises:
            PluginError: they are larger than the image.
        """
        params = self.params
        across = 0 if "left" in params.anchor else 1 if "right" in params.anchor else 0.5
        down = 0 if "top" in params.anchor else 1 if "bottom" in params.anchor else 0.5
        size = params.size * canvas.height
        write(canvas, params.text, pixels(canvas, params.at), size, params.color, anchor=(across, down))
