"""Images side by side on white, with labels at the left and captions above."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualproc.run.images import to_pillow

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont
    from torch import Tensor

LABELS = ("base", "trained", "what the judge sees")
SMALLEST, LARGEST = 160, 256
"""Images are shown at their own height if it is in this range (pixels), otherwise enlarged or downscaled to it."""
MARGIN, GAP, LINE, GUTTER = 20, 6, 17, 84
"""Pixels around everything, between images, per line of text, and for the labels."""
INK, FAINT = "#1c1c1e", "#6e6e73"


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
    return compose([_shown(images, height) for images in tensors], captions, columns, LABELS)


def sheet(images: Tensor, *, captions: Sequence[str] = (), columns: int = 6, height: int | None = None) -> Image:
    """Images [B, 3, H, W] in [0, 1] in rows of `columns`, each under its caption."""
    return compose([_shown(images, height)], captions, columns)


def compose(
    rows: Sequence[Sequence[Image]], captions: Sequence[str], columns: int, labels: Sequence[str] = ()
) -> Image:
    """Rows of images of one size, in blocks of `columns`; `captions` above each block, `labels` beside each row."""
    from PIL import Image, ImageDraw

    width, height = rows[0][0].size
    columns = min(columns, len(rows[0]))
    texts = [wrap(text, width) for text in captions]
    left = MARGIN + (GUTTER if labels else 0)
    head = LINE * max((text.count("\n") + 1 for text in texts), default=0) + GAP
    block = head + len(rows) * (height + GAP) + MARGIN
    blocks = math.ceil(len(rows[0]) / columns)
    canvas = Image.new("RGB", (left + columns * (width + GAP) - GAP + MARGIN, MARGIN + blocks * block - GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for row, images in enumerate(rows):
        for index, image in enumerate(images):
            x = left + index % columns * (width + GAP)
            y = MARGIN + index // columns * block + head + row * (height + GAP)
            canvas.paste(image, (x, y))
            if row == 0 and texts:
                draw.multiline_text((x, y - GAP), texts[index], FAINT, font(), "ld")
            if x == left and labels:
                draw.multiline_text((MARGIN, y + height // 2), wrap(labels[row], GUTTER - GAP), INK, font(), "lm")
    return canvas


@functools.cache
def font() -> FreeTypeFont | ImageFont:
    """The font of labels and captions."""
    from PIL import ImageFont

    return ImageFont.load_default(size=13)


def wrap(text: str, width: int, *, most: int = 3) -> str:
    """`text` in at most `most` lines of at most `width` pixels; what does not fit ends in an ellipsis."""
    text = text[: most * width]  # a character has more than one pixel
    for characters in range(max(4, min(len(text), width)), 3, -1):
        lines = textwrap.wrap(text, characters, max_lines=most, placeholder="...")
        if all(font().getlength(line) <= width for line in lines):
            return "\n".join(lines)
    return "..."


def _shown(images: Tensor, height: int | None) -> list[Image]:
    from PIL import Image, ImageOps

    height = height or min(max(images.shape[-2], SMALLEST), LARGEST)
    return [ImageOps.scale(image, height / image.height, Image.Resampling.LANCZOS) for image in to_pillow(images)]
