"""Validate the scorers of colour and structure on new scenes: `python -m tools.tiny_world.accuracy_color`."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from dualproc.kit.colors import distances, to_lab
from dualproc.kit.structure import structure
from dualproc.plugins.scorers.palette import Palette, palette_distance
from dualproc.plugins.scorers.region_color import region_colors
from dualproc.types import ScoreContext

from .scenes import CODE, Scene, draw_scenes, render_all

NOTHING = ScoreContext(prompts=(), seeds=())
SWATCHES = {
    "dark academia": ("#b3937f", "#9c9580", "#7d98a6"),
    "pastel": ("#cfc3ee", "#f9cfe0", "#f4b6c4"),
    "retro": ("#f0a860", "#cc7f5e", "#9aa86a"),
}
"""The swatches of specs/palette.yaml."""
PALETTES = {name: Palette.Params(colors=swatches, missing=1) for name, swatches in SWATCHES.items()}
"""Their scorers; one swatch may be missing, because these scenes have two large areas, sky and ground."""
DETAIL = 384
"""Height in pixels of the renders that the true area of each fill is measured on."""


def images(scenes: list[Scene], size: int) -> torch.Tensor:
    """[N, 3, size, size] in [0, 1]."""
    return torch.from_numpy(render_all(scenes, size)).permute(0, 3, 1, 2).float() / 255


def true_palette(detailed: npt.NDArray[np.uint8], params: Palette.Params) -> float:
    """The palette's value for a scene's true fills and their areas; black is ink, not a fill.

    The fills are the exact colours that cover at least 0.2 % of a detailed render; blends at edges cover less.
    """
    codes, counts = np.unique(detailed.astype(np.int64) @ (65536, 256, 1), return_counts=True)
    fills = (counts >= 0.002 * counts.sum()) & (codes != 0)
    colours = to_lab([f"#{code:06x}" for code in codes[fills]])
    return palette_distance(colours, counts[fills] / counts[fills].sum(), params)


def report_regions(scenes: list[Scene], size: int, label: str) -> None:
    """Print the distance between the colours that the scorer finds for sky and ground and the true ones."""
    shown = images(scenes, size)
    for index, region in enumerate(("sky", "ground")):
        found = region_colors(shown, region)
        off = np.array([
            np.nan if colour is None else distances(colour[None], scene.palette[index : index + 1])[0]
            for colour, scene in zip(found, scenes, strict=True)
        ])  # fmt: skip
        print(
            f"{size:4d} px, {label}: {region:6s} mean error {np.nanmean(off):.2f}, over 3: {np.nanmean(off > 3):.3f}, "
            f"not found: {np.isnan(off).mean():.3f}"
        )


def report_palette(scenes: list[Scene], size: int, truths: dict[str, list[float]]) -> None:
    """Print the error of the scorer `palette`, and its value for scenes whose sky and ground have swatch colours."""
    shown = images(scenes, size)
    for name, params in PALETTES.items():
        scorer, truth, swatches = Palette(params), np.array(truths[name]), SWATCHES[name]
        found = scorer.score(shown, NOTHING).numpy()
        rng = np.random.default_rng(3)
        matching = [
            dataclasses.replace(scene, colours=tuple(rng.choice(swatches, 2, replace=False))) for scene in scenes
        ]
        reached = scorer.score(images(matching, size), NOTHING).numpy()
        off = found - truth
        print(
            f"{size:4d} px, {name:13s}: mean error {np.abs(off).mean():.2f}, bias {off.mean():+.2f}, correlation "
            f"{np.corrcoef(found, truth)[0, 1]:.3f}; value {_spread(found)}, with swatch colours {_spread(reached)}"
        )


def _spread(values: npt.NDArray[np.float32]) -> str:
    within = Palette.Params(colors=("black",)).within
    return f"{values.mean():.1f} ± {values.std():.1f} ({np.mean(values <= within):.0%} within {within:g})"


def report_structure(scenes: list[Scene], size: int) -> None:
    """Print the similarity in structure of scenes to the same scenes with one property changed."""
    rng = np.random.default_rng(4)
    others = [dataclasses.replace(scene, codes=rng.random(len(CODE), dtype=np.float32)) for scene in scenes]
    pairs = {
        "other colours": (scenes, [_coded(scene, sky_hue=rng.random(), ground_hue=rng.random()) for scene in scenes]),
        "pastel": (scenes, [dataclasses.replace(scene, colours=SWATCHES["pastel"][:2]) for scene in scenes]),
        "thin, thick": tuple([_coded(scene, line_weight=code) for scene in scenes] for code in (0.1, 0.9)),
        "other seed": (scenes, others),
        "other seed, same horizon": tuple(
            [_coded(scene, horizon=0.4) for scene in group] for group in (scenes, others)
        ),
        "other seed, same palette": tuple(
            [dataclasses.replace(scene, colours=SWATCHES["pastel"][:2]) for scene in group]
            for group in (scenes, others)
        ),
        "other scene": (scenes, scenes[1:] + scenes[:1]),
    }
    for name, (one, two) in pairs.items():
        alike = (structure(images(one, size)) * structure(images(two, size))).sum(1)
        print(f"{size:4d} px, structure, {name}: {alike.mean():.3f} ± {alike.std():.3f}")


def _coded(scene: Scene, **codes: float) -> Scene:
    changed = scene.codes.copy()
    for name, value in codes.items():
        changed[CODE[name]] = value
    return dataclasses.replace(scene, codes=changed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=300, help="number of scenes")
    count = parser.parse_args().count
    scenes = draw_scenes(count, seed=41, pairs=0.2)
    wide = draw_scenes(count, seed=42, pairs=0.2, wide=1.0)
    detailed = render_all(scenes, DETAIL)
    truths = {name: [true_palette(image, params) for image in detailed] for name, params in PALETTES.items()}
    for size in (64, 96, 128, 256):
        report_regions(scenes, size, "normal")
        report_regions(wide, size, "wide")
        report_palette(scenes, size, truths)
        report_structure(scenes, size)


if __name__ == "__main__":
    main()
