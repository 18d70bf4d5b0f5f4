"""Pictures side by side, with labels and captions, on white: what a person looks at to believe the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont
    from torch import Tensor

LABELS = ("base", "taught", "what the judge sees")
SMALLEST, LARGEST = 160, 256
"""Pictures are shown at their own height if it is in this range (pixels), else enlarged or reduced to it."""

_MARGIN, _GAP, _LINE = 20, 6, 17
_INK, _FAINT = "#1c1c1e", "#6e6e73"


class _Row(NamedTuple):
    label: str
    pictures: list[Image]


def before_after_grid(
    base: Tensor,
    taught: Tensor,
    *,
    overlaid: Tensor | None = None,
    captions: Sequence[str] = (),
    columns: int = 6,
    height: int | None = None,
) -> Image:
    """Base above taught (above taught with its visual prompt), a column a picture, in blocks of `columns`.

    All tensors are [B, 3, H, W] in [0, 1] and of the same B. `captions` has one text a picture, or none. `height` is
    that of a shown picture in pixels; by default 160 to 256, whichever is nearest to the pictures' own.
    """
    tensors = [base, taught] if overlaid is None else [base, taught, overlaid]
    rows = [_Row(label, _shown(images, height)) for label, images in zip(LABELS, tensors, strict=False)]
    return _compose(rows, captions, columns)


def sheet(images: Tensor, *, captions: Sequence[str] = (), columns: int = 6, height: int | None = None) -> Image:
    """Pictures [B, 3, H, W] in [0, 1] in rows of `columns`, each under its caption."""
    return _compose([_Row("", _shown(images, height))], captions, columns)


def to_pictures(images: Tensor) -> list[Image]:
    """[B, 3, H, W] in [0, 1] as 8-bit pictures, rounded to the nearest value and clipped."""
    from PIL import Image as Pillow

    arrays = (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Pillow.fromarray(array) for array in arrays]


def _shown(images: Tensor, height: int | None) -> list[Image]:
    from PIL import Image as Pillow

    rows, columns = images.shape[-2:]
    height = height or min(max(rows, SMALLEST), LARGEST)
    size = (max(1, round(columns * height / rows)), height)
    return [picture.resize(size, Pillow.Resampling.LANCZOS) for picture in to_pictures(images)]


def _compose(rows: Sequence[_Row], captions: Sequence[str], columns: int) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    count = len(rows[0].pictures)
    width, height = rows[0].pictures[0].size
    columns = min(columns, count)
    font = ImageFont.load_default(size=13)
    texts = [_wrap(text, width, font) for text in captions]
    labels = [_wrap(row.label, 76, font) for row in rows]
    gutter = 84 if any(labels) else 0
    caption_height = _LINE * max(map(len, texts), default=0)
    block = caption_height + _GAP + len(rows) * (height + _GAP)
    blocks = -(-count // columns)
    canvas = Pillow.new(
        "RGB",
        (
            2 * _MARGIN + gutter + columns * (width + _GAP) - _GAP,
            2 * _MARGIN + blocks * (block + _MARGIN) - _MARGIN - _GAP,
        ),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for index in range(count):
        x = _MARGIN + gutter + (index % columns) * (width + _GAP)
        y = _MARGIN + (index // columns) * (block + _MARGIN)
        if texts:
            lines = texts[index]
            _write(draw, (x, y + caption_height - _LINE * len(lines)), lines, font, _FAINT)
        for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
            top = y + caption_height + _GAP + place * (height + _GAP)
            canvas.paste(row.pictures[index], (x, top))
            if index % columns == 0:
                _write(draw, (_MARGIN, top + (height - _LINE * len(label)) // 2), label, font, _INK)
    return canvas


def _write(
    draw: ImageDraw, place: tuple[int, int], lines: Sequence[str], font: FreeTypeFont | ImageFont, ink: str
) -> None:
    for number, line in enumerate(lines):
        draw.text((place[0], place[1] + number * _LINE), line, fill=ink, font=font)


def _wrap(text: str, width: int, font: FreeTypeFont | ImageFont, *, most: int = 3) -> list[str]:
    """`text` in at most `most` lines that fit `width` pixels; what does not fit ends in an ellipsis."""
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
