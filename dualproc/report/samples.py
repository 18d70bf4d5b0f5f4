"""The held-out images of an evaluation, one file each, and the grid of base above trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc.run.images import (
    BASE,
    GRID,
    JUDGE_VIEW,
    STRIP,
    TRAINED,
    image_names,
    preview_path,
    spread_out,
    write_images,
    write_png,
)  # fmt: skip
from dualproc.types import Evaluation

from .grids import before_after_grid, sheet

if TYPE_CHECKING:
    from torch import Tensor

GRID_IMAGES = 12
"""Columns of the grid; the subfolders have every image."""


def write_samples(
    samples: Path,
    base: Tensor,
    trained: Tensor,
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    judge_view: Tensor | None = None,
) -> Path:
    """Write the images of an evaluation ([B, 3, H, W] each, in its order) and the grid; returns the grid's path.

    `judge_view` are the trained images under the visual prompt. Report and model card show what is written here.
    """
    names = image_names(prompts, seeds)
    sets = {BASE: base, TRAINED: trained} | ({} if judge_view is None else {JUDGE_VIEW: judge_view})
    for folder, images in sets.items():
        write_images(samples / folder, images, names)
    chosen = spread_out(prompts, GRID_IMAGES)
    seen = None if judge_view is None else judge_view[chosen]
    grid = before_after_grid(base[chosen], trained[chosen], judge_view=seen, captions=[prompts[i] for i in chosen])
    return write_png(samples / GRID, grid)


def write_strips(samples: Path, strips: Mapping[str, Tensor], captions: Mapping[str, Sequence[str]]) -> None:
    """Write each slider's images ([N, 3, H, W]) side by side, under their captions."""
    for name, images in strips.items():
        write_png(samples / STRIP.format(name), sheet(images, captions=captions[name], columns=len(images)))


def write_preview(samples: Path, step: int, base: Tensor, trained: Tensor, prompts: Sequence[str]) -> Path:
    """Write the preview after a training step: base above trained ([B, 3, H, W] each); returns its path."""
    return write_png(preview_path(samples, step), before_after_grid(base, trained, captions=prompts, columns=4))


def sample_files(samples: Path, evaluation: Evaluation, most: int) -> dict[int, dict[str, Path]]:
    """The existing files of at most `most` held-out images, by the image's index, then by subfolder."""
    prompts = [prompt.text for prompt in evaluation.prompts]
    names = image_names(prompts, evaluation.seeds)
    return {
        index: {kind: path for kind in (BASE, TRAINED, JUDGE_VIEW) if (path := samples / kind / names[index]).exists()}
        for index in spread_out(prompts, most)
    }
