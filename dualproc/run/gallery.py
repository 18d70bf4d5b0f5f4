"""The picture of a bench: of every run a few held-out pictures, base above taught, and what the judge was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.errors import RunError

from .bench import BenchRow, on_target_change
from .files import as_run_error, write_atomically
from .folder import RunFolder
from .grids import _FAINT, _GAP, _INK, _LINE, _MARGIN, LABELS, _wrap, _write
from .pictures import BASE, OVERLAID, TAUGHT, picture_names, png, spread_out

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

COLUMNS = 6
"""Pictures of each run: the first seed of each of the first prompts, then second seeds. Nobody chooses."""
HEIGHT = 128
"""Smaller pictures are enlarged by the largest whole factor that stays within this (pixels), larger ones reduced."""

_BETWEEN, _LABEL, _GUTTER = 24, 176, 56
"""Pixels between strips, for the text at the left, for `base` and `taught`."""


@dataclass(frozen=True)
class _Pictures:
    captions: list[str]
    base: list[Image]
    taught: list[Image]
    overlaid: Image | None
    """The first of `taught` as the judge sees it."""


def write_gallery(path: Path, out: Path, rows: Sequence[BenchRow]) -> Path | None:
    """Write the picture of the runs in the bench's folder `out`, and say where it is; None if none has pictures.

    Raises RunError if a run's files are damaged, or the picture cannot be written.
    """
    found = [(row, _read(out / row.folder)) for row in rows if row.result is not None]
    shown = [(row, pictures) for row, pictures in found if pictures is not None]
    if not shown:
        return None
    write_atomically(path, png(_compose(shown)), durable=False)
    return path


def _read(folder: Path) -> _Pictures | None:
    """The pictures of a run; None if they were deleted."""
    run = RunFolder.open(folder)
    evaluation = run.read_evaluation()
    if evaluation is None:
        return None
    prompts = [prompt.text for prompt in evaluation.prompts]
    names = picture_names(prompts, evaluation.seeds)
    chosen = spread_out(prompts, COLUMNS)
    base, taught = ([run.samples / kind / names[index] for index in chosen] for kind in (BASE, TAUGHT))
    seen = run.samples / OVERLAID / names[chosen[0]]
    if not all(path.exists() for path in (*base, *taught)):
        return None
    return _Pictures(
        captions=[prompts[index] for index in chosen],
        base=[_open(path) for path in base],
        taught=[_open(path) for path in taught],
        overlaid=_open(seen) if seen.exists() else None,
    )


def _open(path: Path) -> Image:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    with as_run_error("read", path):
        try:
            with Pillow.open(path) as picture:
                return _resized(picture.convert("RGB"))
        except UnidentifiedImageError as error:
            raise RunError(f"{path} is damaged: {error}") from error


def _resized(picture: Image) -> Image:
    from PIL import Image as Pillow

    factor = HEIGHT // picture.height
    if factor:
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Pillow.Resampling.NEAREST)
    size = (max(1, round(picture.width * HEIGHT / picture.height)), HEIGHT)
    return picture.resize(size, Pillow.Resampling.LANCZOS)


def _compose(shown: Sequence[tuple[BenchRow, _Pictures]]) -> Image:
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(size=13)
    captions = [[_wrap(text, p.base[0].width, font) for text in p.captions] for _, p in shown]
    heads = [_LINE * max(map(len, texts)) + _GAP for texts in captions]
    heights = [head + 2 * (p.base[0].height + _GAP) for head, (_, p) in zip(heads, shown, strict=True)]
    widths = [_LABEL + _GUTTER + (len(p.base) + 1) * (p.base[0].width + _GAP) for _, p in shown]
    size = (2 * _MARGIN + max(widths), 2 * _MARGIN + sum(heights) + _BETWEEN * (len(shown) - 1))
    canvas = Pillow.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    top = _MARGIN
    for (row, pictures), texts, head, height in zip(shown, captions, heads, heights, strict=True):
        _draw_label(canvas, draw, font, top + head, row, pictures)
        _draw_pictures(canvas, draw, font, top + head, pictures, texts)
        top += height + _BETWEEN
    return canvas


def _draw_label(
    canvas: Image, draw: ImageDraw, font: FreeTypeFont | ImageFont, top: int, row: BenchRow, pictures: _Pictures
) -> None:
    """The text at the left, and beside it what the judge sees; `top` is where the base's pictures begin."""
    names = [line for text in (row.name, row.variant or "") for line in _wrap(text, _LABEL, font)]
    _write(draw, (_MARGIN, top), names, font, _INK)
    below = _wrap(f"on target {on_target_change(row)}", _LABEL, font)
    _write(draw, (_MARGIN, top + _LINE * len(names) + _GAP), below, font, _FAINT)
    if pictures.overlaid is not None:
        place = (_MARGIN + _LABEL, top + pictures.overlaid.height + _GAP)
        canvas.paste(pictures.overlaid, place)
        above = _wrap(LABELS[2], pictures.overlaid.width, font)
        _write(draw, (place[0], place[1] - _GAP - _LINE * len(above)), above, font, _FAINT)


def _draw_pictures(
    canvas: Image,
    draw: ImageDraw,
    font: FreeTypeFont | ImageFont,
    top: int,
    pictures: _Pictures,
    captions: Sequence[Sequence[str]],
) -> None:
    """Base above taught, under their prompts; `top` is where the base's pictures begin."""
    width, height = pictures.base[0].size
    left = _MARGIN + _LABEL + width + _GAP + _GUTTER
    for place, (label, row) in enumerate(zip(LABELS, (pictures.base, pictures.taught), strict=False)):
        y = top + place * (height + _GAP)
        _write(draw, (left - _GUTTER + _GAP, y + (height - _LINE) // 2), [label], font, _INK)
        for column, picture in enumerate(row):
            canvas.paste(picture, (left + column * (width + _GAP), y))
    for column, lines in enumerate(captions):
        place_of_text = (left + column * (width + _GAP), top - _GAP - _LINE * len(lines))
        _write(draw, place_of_text, lines, font, _FAINT)
