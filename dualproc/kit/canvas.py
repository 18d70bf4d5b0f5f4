"""Drawing onto a visual prompt's canvas: parameter types of places, boxes and colours; exact, blended shapes.

Pillow's own drawing replaces pixels (a half transparent shape erases what is below) and rounds widths to whole pixels.
Neither suits an image instruction whose thickness is the message.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, hypot
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from dualproc.errors import PluginError
from dualproc.wording import suggestion

if TYPE_CHECKING:
    from numpy import ndarray
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont


def _refuse_empty(value: Any) -> Any:
    if value is None:
        raise ValueError('no colour given; a hex value needs quotes in YAML ("#cc2244"), because # starts a comment')
    return value


def _known_color(value: str) -> str:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(value)
    except ValueError:
        advice = (
            suggestion(value.lower(), ImageColor.colormap) or "write a name such as red, or a hex value such as #cc2244"
        )
        raise ValueError(f"'{value}' is not a colour; {advice}") from None
    return value


Color = Annotated[str, BeforeValidator(_refuse_empty), AfterValidator(_known_color)]
"""A colour name of CSS or a hex value, `#cc2244`; `#cc224480` is half transparent."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A length as a fraction of the image: horizontal lengths of its width, all others of its height."""

Size = Annotated[float, Field(gt=0, le=1)]

Place = tuple[Fraction, Fraction]
"""x from the left and y from the top, as fractions of width and height."""


def _with_area(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise ValueError("the box has no area; write [left, top, right, bottom]")
    return box


Box = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], AfterValidator(_with_area)]
"""An upright rectangle: left, top, right, bottom, as fractions of width and height."""


def pixels(canvas: Image, place: Place) -> tuple[float, float]:
    """A place in pixels; integers lie between two pixels."""
    return place[0] * canvas.width, place[1] * canvas.height


def box_pixels(canvas: Image, box: Box) -> tuple[float, float, float, float]:
    """A box in pixels: left, top, right, bottom."""
    return *pixels(canvas, box[:2]), *pixels(canvas, box[2:])


def fill_polygon(canvas: Image, corners: Sequence[tuple[float, float]], color: str) -> None:
    """Fill a convex polygon given by its corners in pixels, clockwise; edge pixels are filled by the covered share."""
    import numpy as np

    xs, ys = (np.array(values, dtype=float) for values in zip(*corners, strict=True))
    left, right = max(0, floor(xs.min())), min(canvas.width, ceil(xs.max()))
    top, bottom = max(0, floor(ys.min())), min(canvas.height, ceil(ys.max()))
    grid_x, grid_y = np.arange(left, right)[None, :] + 0.5, np.arange(top, bottom)[:, None] + 0.5
    edges_x, edges_y = np.roll(xs, -1) - xs, np.roll(ys, -1) - ys
    uncovered = np.zeros((bottom - top, right - left))
    for x, y, dx, dy in zip(xs, ys, edges_x, edges_y, strict=True):
        inside = (dx * (grid_y - y) - dy * (grid_x - x)) / hypot(dx, dy)
        uncovered += 1 - np.clip(inside + 0.5, 0, 1)
    _paint(canvas, 1 - uncovered, (left, top), color)


def fill_disc(canvas: Image, center: tuple[float, float], radius: float, color: str) -> None:
    """Fill a disc (in pixels); edge pixels are filled by the covered share."""
    import numpy as np

    x, y = center
    left, right = max(0, floor(x - radius)), min(canvas.width, ceil(x + radius))
    top, bottom = max(0, floor(y - radius)), min(canvas.height, ceil(y + radius))
    grid_x, grid_y = np.arange(left, right)[None, :] + 0.5, np.arange(top, bottom)[:, None] + 0.5
    _paint(canvas, radius + 0.5 - np.hypot(grid_x - x, grid_y - y), (left, top), color)


def fill_rectangle(canvas: Image, corner: tuple[float, float], opposite: tuple[float, float], color: str) -> None:
    """Fill an upright rectangle (in pixels), its edges rounded to whole pixels so that neighbours meet."""
    from PIL import Image

    left, top, right, bottom = (round(value) for value in (*corner, *opposite))
    if left < right and top < bottom:
        block = Image.new("RGBA", (right - left, bottom - top), _rgba(color))
        canvas.alpha_composite(block, (left, top))


def text_size(text: str, size: float) -> tuple[float, float]:
    """Width and height of the ink of `text` at a font size, all in pixels."""
    left, top, right, bottom = _ink_box(text, _font(size))
    return right - left, bottom - top


def write(
    canvas: Image, text: str, at: tuple[float, float], size: float, color: str, *, anchor: tuple[float, float]
) -> None:
    """Write text at a place (pixels), moved as little as needed to stay inside the image.

    Args:
        anchor: the point of the text that is `at` the place, from (0, 0), its top left, to (1, 1), its bottom right.

    Raises:
        PluginError: the text is larger than the image.
    """
    from PIL import Image, ImageDraw

    width, height = (ceil(length) for length in text_size(text, size))
    if width > canvas.width or height > canvas.height:
        share = max(width / canvas.width, height / canvas.height)
        raise PluginError(
            f"the text '{text}' is {share:.2f} times as large as the image",
            hint=f"use a size of at most {size / share / canvas.height:.3f}, or break the text into lines",
        )
    font = _font(size)
    left, top, _, _ = _ink_box(text, font)
    layer = Image.new("RGBA", (width, height))
    align = {0: "left", 0.5: "center", 1: "right"}[anchor[0]]
    ImageDraw.Draw(layer).multiline_text((-left, -top), text, fill=color, font=font, align=align)
    x, y = at[0] - anchor[0] * width, at[1] - anchor[1] * height
    corner = (min(max(round(x), 0), canvas.width - width), min(max(round(y), 0), canvas.height - height))
    canvas.alpha_composite(layer, corner)


def _paint(canvas: Image, coverage: ndarray, corner: tuple[int, int], color: str) -> None:
    """Composite a colour over the canvas by `coverage` (rows x columns, clipped to 0..1)."""
    from PIL import Image

    *rgb, opacity = _rgba(color)
    alpha = Image.fromarray((coverage.clip(0, 1) * opacity).round().astype("uint8"))
    layer = Image.new("RGBA", alpha.size, tuple(rgb))
    layer.putalpha(alpha)
    canvas.alpha_composite(layer, corner)


def _rgba(color: str) -> tuple[int, int, int, int]:
    from PIL import ImageColor

    red, green, blue, *opacity = ImageColor.getrgb(color)
    return red, green, blue, opacity[0] if opacity else 255


def _font(size: float) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _ink_box(text: str, font: FreeTypeFont | ImageFont) -> tuple[float, float, float, float]:
    from PIL import Image, ImageDraw

    return ImageDraw.Draw(Image.new("RGBA", (1, 1))).multiline_textbbox((0, 0), text, font=font)
