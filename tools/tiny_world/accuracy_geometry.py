"""Validate the geometry scorers on new scenes: `python -m tools.tiny_world.accuracy_geometry [SIZE ...]`."""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_fill_holes

from dualproc.plugins.scorers.composition import Composition
from dualproc.plugins.scorers.depth_order import DepthOrder
from dualproc.plugins.scorers.horizon import Horizon
from dualproc.types import ScoreContext

from .scenes import Scene, draw_scenes, render_all

TRUE_SIZE = 128
"""Height and width in pixels of the renders that the true extent of the drawings is measured on."""
POINTS = ((0.24, 0.7), (0.72, 0.7))
"""The points of specs/relative_depth.yaml."""
APART = 0.05
"""If the feet differ by less than this share of the height, the subjects count as equally near."""
Numbers = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=int, default=[64, 96, 128, 256])
    parser.add_argument("--count", type=int, default=300, help="scenes of each kind")
    args = parser.parse_args()
    for size in args.sizes:
        for kind, pairs, wide in (("normal", 0.3, 0.0), ("pairs", 1.0, 0.0), ("wide", 0.3, 1.0)):
            scenes = draw_scenes(args.count, seed=4242, pairs=pairs, wide=wide)
            images = render_all(scenes, size)
            print(f"{size:4d} px, {len(scenes)} {kind} scenes")
            horizon(scenes, images)
            depth_order(scenes, images)
            expanse(scenes, images)
            upright(scenes, images)


def horizon(scenes: list[Scene], images: npt.NDArray[np.uint8]) -> None:
    """Print the error of the scorer `horizon`, in shares of the height."""
    found = measure(Horizon(Horizon.Params()), images)
    report("horizon", found - np.array([scene.horizon for scene in scenes]), within=0.02)


def depth_order(scenes: list[Scene], images: npt.NDArray[np.uint8]) -> None:
    """Print the error of the scorer `depth_order` with the points of the spec, on scenes of two subjects."""
    pairs = [index for index, scene in enumerate(scenes) if len(scene.subjects) == 2]
    feet = np.array([[foot for _, foot, _ in scenes[index].boxes] for index in pairs])
    found, true = (
        measure(DepthOrder(DepthOrder.Params(a=POINTS[0], b=POINTS[1])), images[pairs]),
        feet[:, 0] - feet[:, 1],
    )
    report("depth_order", found - true, within=0.05)
    apart = np.abs(true) > APART
    right = (found * true > 0)[apart].mean()
    print(f"    order correct in {right:.3f} of the {int(apart.sum())} scenes whose feet differ by more than {APART}")


def expanse(scenes: list[Scene], images: npt.NDArray[np.uint8]) -> None:
    """Print the error of the scorer `composition` for a region, with a random box for each scene."""
    rng = np.random.default_rng(0)
    truth, off = true_drawings(scenes), []
    for mask, image in zip(truth, images, strict=True):
        left, top = rng.uniform(0, 0.6, 2)
        right, bottom = left + rng.uniform(0.28, 1 - left), top + rng.uniform(0.28, 1 - top)
        rows, columns = (
            slice(*(round(TRUE_SIZE * edge) for edge in edges)) for edges in ((top, bottom), (left, right))
        )
        params = Composition.Params(element="expanse", box=(left, top, min(right, 1.0), min(bottom, 1.0)))
        off.append(measure(Composition(params), image[None])[0] - mask[rows, columns].mean())
    report("composition, expanse", np.array(off), within=0.05)


def upright(scenes: list[Scene], images: npt.NDArray[np.uint8]) -> None:
    """Print the error of the scorer `composition` for a vertical axis, on scenes of one subject."""
    ones = [index for index, scene in enumerate(scenes) if len(scene.subjects) == 1]
    if not ones:
        return
    truth = true_drawings([dataclasses.replace(scenes[index], setting="") for index in ones])
    true = np.array([(np.median(np.nonzero(mask)[1]) + 0.5) / TRUE_SIZE for mask in truth])
    found = measure(Composition(Composition.Params(element="upright", x=0.0)), images[ones])
    report("composition, upright", found - true, within=0.05)
    middles = np.array([(left + right) / 2 for left, _, right, _ in (scenes[index].extents[0] for index in ones)])
    report("    from the middle of the extents", found - middles, within=0.05)


def measure(scorer: Horizon | DepthOrder | Composition, rendered: npt.NDArray[np.uint8]) -> Numbers:
    """[N] values that a scorer gives to images [N, H, W, 3]."""
    images = torch.from_numpy(rendered).permute(0, 3, 1, 2).float() / 255
    values: Numbers = scorer.score(images, ScoreContext(prompts=(), seeds=())).double().numpy()
    return values


def true_drawings(scenes: list[Scene]) -> npt.NDArray[np.bool_]:
    """[N, TRUE_SIZE, TRUE_SIZE]: the pixels that are neither sky nor ground, and the areas that they enclose."""
    masks = []
    for scene, image in zip(scenes, render_all(scenes, TRUE_SIZE), strict=True):
        sky, ground = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in scene.palette)
        rows = (np.arange(TRUE_SIZE) + 1 - scene.horizon * TRUE_SIZE).clip(0, 1)[:, None, None]
        plain = sky + rows * (ground - sky)
        masks.append(binary_fill_holes(np.abs(image - plain).max(-1) > 16))
    return np.array(masks)


def report(name: str, off: Numbers, *, within: float) -> None:
    """Print the errors of one scorer; nan counts as not within the tolerance."""
    print(
        f"  {name}: mean error {np.nanmean(np.abs(off)):.4f}, bias {np.nanmean(off):+.4f}, within {within} "
        f"{(np.abs(off) <= within).mean():.3f}, no value {np.isnan(off).mean():.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
