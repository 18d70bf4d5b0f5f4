"""Images side by side, with labels and captions, on white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from dualproc.run.images import to_pillow

from .drawing import FAINT, GAP, INK, LABELS, LINE, MARGIN, label_font, wrap, write

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

SMALLEST, LARGEST = 160, 256
"""Images are shown at their own height if it is in this range (pixels), otherwise enlarged or downscaled to it."""


class _Row(NamedTuple):
    label: str
    images: list[Image]


def before_after_grid(
    base: Tensor,
    trained: Tensor,
    *,
    judge_view: Tensor | None = None,
    captions: Sequence[str] = (),
    columns: int = 6,
    height: int | None = None,
) -> Image:
    """Base above trained (above trained with its visual prompt), a column per image, in blocks of `columns`.

    All tensors are [B, 3, H, W] in [0, 1] and of the same B. `captions` has one text per image, or none. `height` is
    that of a shown image in pixels; by default 160 to 256, whichever is nearest to the images' own.
    """
    tensors = [base, trained] if judge_view is None else [base, trained, judge_view]
    rows = [_Row(label, _shown(images, height)) for label, images in zip(LABELS, tensors, strict=False)]
    return _compose(rows, captions, columns)


def sheet(images: Tensor, *, captions: Sequence[str] = (), columns: int = 6, height: int | None = None) -> Image:
    """Images [B, 3, H, W] in [0, 1] in rows of `columns`, each under its caption."""
    return _compose([_Row("", _shown(images, height))], captions, columns)


def _shown(images: Tensor, height: int | None) -> list[Image]:
    from PIL import Image as Pillow

    rows, columns = images.shape[-2:]
    height = height or min(max(rows, SMALLEST), LARGEST)
    size = (max(1, round(columns * height / rows)), height)
    return [image.resize(size, Pillow.Resampling.LANCZOS) for image in to_pillow(images)]


def _compose(rows: Sequence[_Row], captions: Sequence[str], columns: int) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    count = len(rows[0].images)
    width, height = rows[0].images[0].size
    columns = min(columns, count)
    font = label_font()
    texts = [wrap(text, width, font) for text in captions]
    labels = [wrap(row.label, 76, font) for row in rows]
    gutter = 84 if any(labels) else 0
    caption_height = LINE * max(map(len, texts), default=0)
    block = caption_height + GAP + len(rows) * (height + GAP)
    blocks = -(-count // columns)
    canvas = Pillow.new(
        "RGB",
        (
            2 * MARGIN + gutter + columns * (width + GAP) - GAP,
            2 * MARGIN + blocks * (block + MARGIN) - MARGIN - GAP,
        ),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for index in range(count):
        x = MARGIN + gutter + (index % columns) * (width + GAP)
        y = MARGIN + (index // columns) * (block + MARGIN)
        if texts:
            lines = texts[index]
            write(draw, (x, y + caption_height - LINE * len(lines)), lines, font, FAINT)
        for place, (row, label) in enumerate(zip(rows, labels, strict=True)):
            top = y + caption_height + GAP + place * (height + GAP)
            canvas.paste(row.images[index], (x, top))
            if index % columns == 0:
                write(draw, (MARGIN, top + (height - LINE * len(label)) // 2), label, font, INK)
    return canvas
