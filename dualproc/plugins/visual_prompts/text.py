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
    """Text on the image, moved inside if it would cross the edge."""

    api_version: ClassVar[int] = 1

    class Params(BaseModel, extra="forbid", frozen=True):
        """The text, its position and its look."""

        text: str = Field(min_length=1, pattern=r"\S", description="The text: Latin letters, one or more lines.")
        at: Place = Field(description="Position [x, y], as fractions of the image.")
        size: Size = Field(0.06, description="Font size, as a fraction of the image height.")
        color: Color = Field("red", description="A name or a hex value.")
        anchor: Anchor = Field("center", description="The point of the text that is placed at `at`.")

    def __init__(self, params: Params) -> None:
        self.params = params

    def draw(self, canvas: Image) -> None:
        """Write the text, moved as little as needed to stay inside the image.

        Raises PluginError if the text is larger than the image.
        """
        params = self.params
        across = 0 if "left" in params.anchor else 1 if "right" in params.anchor else 0.5
        down = 0 if "top" in params.anchor else 1 if "bottom" in params.anchor else 0.5
        size = params.size * canvas.height
        write(canvas, params.text, pixels(canvas, params.at), size, params.color, anchor=(across, down))
