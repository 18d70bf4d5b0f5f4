"""Drawing on a visual prompt's canvas: parameter types for places, boxes and colours; exact, blended shapes and text.

Pillow's own drawing replaces pixels (a half transparent shape erases what is below it) and rounds widths to whole
pixels. Both would distort an instruction whose message is a thickness. A canvas is an RGBA image. The functions draw
on it in place, with edges blended by the covered share of each pixel, and cut off everything outside the canvas. They
raise ValueError for an unknown colour.
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


def _refuse_missing(value: Any) -> Any:
    if value is None:
        raise ValueError('the colour is empty; quote hex values in YAML ("#cc2244"), because # starts a comment')
    return value


def _known_color(value: str) -> str:
    from PIL import ImageColor

    try:
        ImageColor.getrgb(value)
    except ValueError:
        advice = (
            suggestion(value.lower(), ImageColor.colormap) or "write a name such as red, or a hex value such as #cc2244"
        )
        raise ValueError(f"unknown colour '{value}'; {advice}") from None
    return value


Color = Annotated[str, BeforeValidator(_refuse_missing), AfterValidator(_known_color)]
"""A CSS colour name or a hex value such as `#cc2244`; `#cc224480` is half transparent."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A fraction of the image, from 0 to 1: of its width for horizontal positions, else of its height."""

Size = Annotated[float, Field(gt=0, le=1)]
"""A length as a fraction of the image, above 0 and at most 1."""

Place = tuple[Fraction, Fraction]
"""[x, y]: from the left and from the top, as fractions of the width and height."""


def _refuse_empty_box(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        raise ValueError("the box is empty; expected [left, top, right, bottom] with left < right and top < bottom")
    return box


Box = Annotated[tuple[Fraction, Fraction, Fraction, Fraction], AfterValidator(_refuse_empty_box)]
"""An upright rectangle [left, top, right, bottom], as fractions of the width and height, with an area above 0."""


def pixels(canvas: Image, place: Place) -> tuple[float, float]:
    """(x, y) of a place in pixels; whole numbers are the borders between pixels."""
    return place[0] * canvas.width, place[1] * canvas.height


def box_pixels(canvas: Image, box: Box) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a box in pixels; whole numbers are the borders between pixels."""
    return *pixels(canvas, box[:2]), *pixels(canvas, box[2:])


def fill_polygon(canvas: Image, corners: Sequence[tuple[float, float]], color: str) -> None:
    """Fill a convex polygon; `corners` are at least 3 different places (x, y) in pixels, in clockwise order."""
    import numpy as np

    xs, ys = (np.array(values, dtype=float) for values in zip(*corners, strict=True))
    corner, columns, rows = _centres(canvas, xs.min(), ys.min(), xs.max(), ys.max())
    uncovered = np.zeros((rows.size, columns.size))
    for x, y, dx, dy in zip(xs, ys, np.roll(xs, -1) - xs, np.roll(ys, -1) - ys, strict=True):
        inside = (dx * (rows - y) - dy * (columns - x)) / hypot(dx, dy)
        uncovered += 1 - np.clip(inside + 0.5, 0, 1)
    _paint(canvas, 1 - uncovered, corner, color)


def fill_disc(canvas: Image, center: tuple[float, float], radius: float, color: str) -> None:
    """Fill a disc; `center` is (x, y), in pixels like `radius`."""
    import numpy as np

    x, y = center
    corner, columns, rows = _centres(canvas, x - radius, y - radius, x + radius, y + radius)
    _paint(canvas, radius + 0.5 - np.hypot(columns - x, rows - y), corner, color)


def fill_rectangle(canvas: Image, corner: tuple[float, float], opposite: tuple[float, float], color: str) -> None:
    """Fill an upright rectangle; `corner` is its upper left and `opposite` its lower right, (x, y) in pixels.

    The edges are rounded to whole pixels, so that neighbouring rectangles meet. Nothing is drawn if it is empty then.
    """
    from PIL import Image

    left, top, right, bottom = (round(value) for value in (*corner, *opposite))
    if left < right and top < bottom:
        canvas.alpha_composite(Image.new("RGBA", (right - left, bottom - top), color), (left, top))


def text_size(text: str, size: float) -> tuple[float, float]:
    """(width, height) in pixels of `text` as drawn at a font size in pixels; `text` may have several lines."""
    _, (left, top, right, bottom) = _inked(text, size)
    return right - left, bottom - top


def write(
    canvas: Image, text: str, at: tuple[float, float], size: float, color: str, *, anchor: tuple[float, float]
) -> None:
    """Write text, moved as little as needed to stay inside the canvas.

    Args:
        at: (x, y) in pixels.
        size: the font size in pixels.
        anchor: the point of the text that is put `at` this place: (0, 0) is its top left, (1, 1) its bottom right. The
            first number, which also aligns the lines, is 0, 0.5 or 1.

    Raises PluginError if the text is larger than the canvas.
    """
    from PIL import Image, ImageDraw

    width, height = (ceil(length) for length in text_size(text, size))
    if width > canvas.width or height > canvas.height:
        share = max(width / canvas.width, height / canvas.height)
        raise PluginError(
            f"the text '{text}' is {share:.2f} times as large as the image",
            hint=f"use a size of at most {size / share / canvas.height:.3f}, or break the text into lines",
        )
    font, (left, top, _, _) = _inked(text, size)
    layer = Image.new("RGBA", (width, height))
    align = {0: "left", 0.5: "center", 1: "right"}[anchor[0]]
    ImageDraw.Draw(layer).multiline_text((-left, -top), text, fill=color, font=font, align=align)
    x, y = at[0] - anchor[0] * width, at[1] - anchor[1] * height
    corner = (min(max(round(x), 0), canvas.width - width), min(max(round(y), 0), canvas.height - height))
    canvas.alpha_composite(layer, corner)


def _centres(
    canvas: Image, left: float, top: float, right: float, bottom: float
) -> tuple[tuple[int, int], ndarray, ndarray]:
    """The pixels of the canvas that touch a box: the first (x, y), and the centres of columns and of rows."""
    import numpy as np

    x, y = max(0, floor(left)), max(0, floor(top))
    columns, rows = np.arange(x, min(canvas.width, ceil(right))), np.arange(y, min(canvas.height, ceil(bottom)))
    return (x, y), columns[None, :] + 0.5, rows[:, None] + 0.5


def _paint(canvas: Image, coverage: ndarray, corner: tuple[int, int], color: str) -> None:
    """Composite a colour over the canvas; `coverage` [rows, columns] is the share of each pixel, clipped to [0, 1]."""
    import numpy as np
    from PIL import Image

    layer = Image.new("RGBA", coverage.shape[::-1], color)
    opacity = coverage.clip(0, 1) * np.asarray(layer.getchannel("A"))
    layer.putalpha(Image.fromarray(opacity.round().astype("uint8")))
    canvas.alpha_composite(layer, corner)


def _inked(text: str, size: float) -> tuple[FreeTypeFont | ImageFont, tuple[float, float, float, float]]:
    """The font of a size, and the box (left, top, right, bottom) around a text that is drawn with it at (0, 0)."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    return font, ImageDraw.Draw(Image.new("RGBA", (1, 1))).multiline_textbbox((0, 0), text, font=font)
