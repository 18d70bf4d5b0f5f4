"""The gallery of a bench: a few held-out images of every run, base above trained, and what the judge saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from dualproc.kit.image_files import load_image
from dualproc.run import RunFolder
from dualproc.run.files import write_atomically
from dualproc.run.images import BASE, JUDGE_VIEW, TRAINED, png

from .bench import BenchRow, grouped, on_target_change
from .grids import FAINT, GAP, INK, LABELS, LINE, MARGIN, compose, font, wrap
from .samples import sample_files

COLUMNS = 6
"""Images of each run: the first seed of each of the first prompts, then second seeds; never selected by hand."""
HEIGHT = 128
"""Smaller images are enlarged by the largest integer factor that stays within this height (pixels)."""
_NAME = 176
"""Pixels for the text at the left."""


def write_gallery(path: Path, out: Path, rows: Sequence[BenchRow]) -> Path | None:
    """Write the gallery of the runs in the bench's folder `out`, and return its path; None if no run has images.

    Of several seeds, the first that finished is shown.

    Raises DualprocError if a run's files are damaged, or the gallery cannot be written.
    """
    first = [next((row for row in group if row.result), None) for group in grouped(rows)]
    strips = [strip for row in first if row and (strip := strip_of(row, out / row.folder)) is not None]
    if not strips:
        return None
    write_atomically(path, png(stacked(strips)), durable=False)
    return path


def stacked(strips: Sequence[Image.Image]) -> Image.Image:
    """Images below each other, on white."""
    canvas = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        canvas.paste(strip, (0, top))
        top += strip.height
    return canvas


def strip_of(row: BenchRow, folder: Path) -> Image.Image | None:
    """Base above trained images of a run, beside its name and the first image as the judge sees it.

    None if the images were deleted. Raises DualprocError if the run's files are damaged.
    """
    run = RunFolder.open(folder)
    evaluation = run.read_evaluation()
    files = sample_files(run.samples, evaluation, COLUMNS) if evaluation is not None else {}
    if evaluation is None or not all({BASE, TRAINED} <= found.keys() for found in files.values()):
        return None
    images = [[_open(found[kind]) for found in files.values()] for kind in (BASE, TRAINED)]
    grid = compose(images, [evaluation.prompts[index].text for index in files], COLUMNS, LABELS)
    width, height = images[0][0].size
    left, top = MARGIN + _NAME, grid.height - MARGIN - 2 * height - GAP
    canvas = ImageOps.expand(grid, (left + width, 0, 0, 0), "white")
    draw = ImageDraw.Draw(canvas)
    name = "\n".join(wrap(text, _NAME) for text in (row.name, row.variant, row.setting) if text)
    draw.multiline_text((MARGIN, top), name, INK, font())
    target = wrap(f"on target {on_target_change(row)}", _NAME)
    draw.multiline_text((MARGIN, top + LINE * (name.count("\n") + 1) + GAP), target, FAINT, font())
    if seen := next(iter(files.values())).get(JUDGE_VIEW):
        canvas.paste(_open(seen), (left, top + height + GAP))
        draw.multiline_text((left, top + height), wrap(LABELS[2], width), FAINT, font(), "ld")
    return canvas


def _open(path: Path) -> Image.Image:
    shown = load_image(path).convert("RGB")
    if shown.height <= HEIGHT:
        return ImageOps.scale(shown, HEIGHT // shown.height, Image.Resampling.NEAREST)
    return ImageOps.scale(shown, HEIGHT / shown.height, Image.Resampling.LANCZOS)
