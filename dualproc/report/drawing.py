"""Text on images: the measures and colours that grids and galleries share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

LABELS = ("base", "trained", "what the judge sees")
MARGIN, GAP, LINE = 20, 6, 17
"""Pixels around everything, between images, and per line of text."""
INK, FAINT = "#1c1c1e", "#6e6e73"


def label_font() -> FreeTypeFont | ImageFont:
    """The font of labels and captions."""
    from PIL import ImageFont

    return ImageFont.load_default(size=13)


def write(
    draw: ImageDraw, place: tuple[int, int], lines: Sequence[str], font: FreeTypeFont | ImageFont, ink: str
) -> None:
    """Write lines below one another, from their upper left corner."""
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * LINE), line, fill=ink, font=font)


def wrap(text: str, width: int, font: FreeTypeFont | ImageFont, *, most: int = 3) -> list[str]:
    """`text` in at most `most` lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_shorten(line, width, font) for line in lines]


def _shorten(line: str, width: int, font: FreeTypeFont | ImageFont) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line.rstrip() + "..."
