"""The gallery of a bench: a few held-out images of every run, base above trained, and what the judge saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import RunError
from dualproc.run import RunFolder
from dualproc.run.files import as_run_error, write_atomically
from dualproc.run.images import BASE, JUDGE_VIEW, TRAINED, image_names, png, spread_out

from .bench import BenchRow, on_target_change
from .drawing import FAINT, GAP, INK, LABELS, LINE, MARGIN, label_font, wrap, write

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

COLUMNS = 6
"""Images of each run: the first seed of each of the first prompts, then second seeds. Nobody selects them."""
HEIGHT = 128
"""Smaller images are enlarged by the largest integer factor that stays within this height (pixels)."""

_BETWEEN, _LABEL, _GUTTER = 24, 176, 56
"""Pixels between strips, for the text at the left, and for `base` and `trained`."""


@dataclass(frozen=True)
class _Images:
    captions: list[str]
    base: list[Image]
    trained: list[Image]
    judge_view: Image | None
    """The first of `trained` as the judge sees it."""


def write_gallery(path: Path, out: Path, rows: Sequence[BenchRow]) -> Path | None:
    """Write the gallery of the runs in the bench's folder `out`, and return its path; None if no run has images.

    Raises RunError if a run's files are damaged, or the gallery cannot be written.
    """
    found = [(row, _read(out / row.folder)) for row in rows if row.result is not None]
    shown = [(row, images) for row, images in found if images is not None]
    if not shown:
        return None
    write_atomically(path, png(_compose(shown)), durable=False)
    return path


def _read(folder: Path) -> _Images | None:
    """The images of a run; None if they were deleted."""
    run = RunFolder.open(folder)
    evaluation = run.read_evaluation()
    if evaluation is None:
        return None
    prompts = [prompt.text for prompt in evaluation.prompts]
    names = image_names(prompts, evaluation.seeds)
    chosen = spread_out(prompts, COLUMNS)
    base, trained = ([run.samples / kind / names[index] for index in chosen] for kind in (BASE, TRAINED))
    seen = run.samples / JUDGE_VIEW / names[chosen[0]]
    if not all(path.exists() for path in (*base, *trained)):
        return None
    return _Images(
        captions=[prompts[index] for index in chosen],
        base=[_open(path) for path in base],
        trained=[_open(path) for path in trained],
        judge_view=_open(seen) if seen.exists() else None,
    )


def _open(path: Path) -> Image:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    with as_run_error("read", path):
        try:
            with Pillow.open(path) as image:
                return _resized(image.convert("RGB"))
        except UnidentifiedImageError as error:
            raise RunError(f"{path} is damaged: {error}") from error


def _resized(image: Image) -> Image:
    from PIL import Image as Pillow

    factor = HEIGHT // image.height
    if factor:
        size = (image.width * factor, image.height * factor)
        return image.resize(size, Pillow.Resampling.NEAREST)
    size = (max(1, round(image.width * HEIGHT / image.height)), HEIGHT)
    return image.resize(size, Pillow.Resampling.LANCZOS)


def _compose(shown: Sequence[tuple[BenchRow, _Images]]) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw

    font = label_font()
    captions = [[wrap(text, p.base[0].width, font) for text in p.captions] for _, p in shown]
    heads = [LINE * max(map(len, texts)) + GAP for texts in captions]
    heights = [head + 2 * (p.base[0].height + GAP) for head, (_, p) in zip(heads, shown, strict=True)]
    widths = [_LABEL + _GUTTER + (len(p.base) + 1) * (p.base[0].width + GAP) for _, p in shown]
    size = (2 * MARGIN + max(widths), 2 * MARGIN + sum(heights) + _BETWEEN * (len(shown) - 1))
    canvas = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    top = MARGIN
    for (row, images), texts, head, height in zip(shown, captions, heads, heights, strict=True):
        _draw_label(canvas, draw, font, top + head, row, images)
        _draw_images(canvas, draw, font, top + head, images, texts)
        top += height + _BETWEEN
    return canvas


def _draw_label(
    canvas: Image, draw: ImageDraw, font: FreeTypeFont | ImageFont, top: int, row: BenchRow, images: _Images
) -> None:
    """The text at the left, and beside it what the judge sees; `top` is where the base images begin."""
    names = [line for text in (row.name, row.variant or "") for line in wrap(text, _LABEL, font)]
    write(draw, (MARGIN, top), names, font, INK)
    below = wrap(f"on target {on_target_change(row)}", _LABEL, font)
    write(draw, (MARGIN, top + LINE * len(names) + GAP), below, font, FAINT)
    if images.judge_view is not None:
        place = (MARGIN + _LABEL, top + images.judge_view.height + GAP)
        canvas.paste(images.judge_view, place)
        above = wrap(LABELS[2], images.judge_view.width, font)
        write(draw, (place[0], place[1] - GAP - LINE * len(above)), above, font, FAINT)


def _draw_images(
    canvas: Image,
    draw: ImageDraw,
    font: FreeTypeFont | ImageFont,
    top: int,
    images: _Images,
    captions: Sequence[Sequence[str]],
) -> None:
    """Base above trained, under their prompts; `top` is where the base images begin."""
    width, height = images.base[0].size
    left = MARGIN + _LABEL + width + GAP + _GUTTER
    for place, (label, row) in enumerate(zip(LABELS, (images.base, images.trained), strict=False)):
        y = top + place * (height + GAP)
        write(draw, (left - _GUTTER + GAP, y + (height - LINE) // 2), [label], font, INK)
        for column, image in enumerate(row):
            canvas.paste(image, (left + column * (width + GAP), y))
    for column, lines in enumerate(captions):
        place_of_text = (left + column * (width + GAP), top - GAP - LINE * len(lines))
        write(draw, place_of_text, lines, font, FAINT)
