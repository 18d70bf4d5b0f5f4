"""Calibrate and validate the line-weight scorer on new scenes: `python -m tools.tiny_world.accuracy_lines [--fit]`."""

from __future__ import annotations

import argparse

import numpy as np
import torch

from dualproc.plugins.scorers import line_weight as meter
from dualproc.types import ScoreContext

from .scenes import draw_scenes, render_all


def scenes_at(size: int, *, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [N, 3, size, size] in [0, 1], and their true line weights [N] in pixels."""
    scenes = draw_scenes(count, seed=seed, pairs=0.2, wide=0.3)
    scenes = [scene for scene in scenes if 0.5 <= scene.line_weight * size <= 0.06 * size]
    images = torch.from_numpy(render_all(scenes, size)).permute(0, 3, 1, 2).float() / 255
    return images, torch.tensor([scene.line_weight * size for scene in scenes])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fit", action="store_true", help="first fit the coefficients to new scenes and print them")
    args = parser.parse_args()
    coefficients = torch.tensor(meter.COEFFICIENTS)
    scorer = meter.LineWeight(meter.LineWeight.Params())
    if args.fit:
        sets = [scenes_at(size, seed=31, count=1500) for size in (64, 96, 128)]
        x = torch.cat([meter.features(meter.ink_map(images)) for images, _ in sets])
        y = torch.cat([truth for _, truth in sets])
        weight = 1 / y.clamp(min=1)  # weight errors relative to the width
        coefficients = torch.linalg.lstsq(x * weight[:, None], (y * weight)[:, None]).solution[:, 0]
        print("COEFFICIENTS =", tuple(round(c, 5) for c in coefficients.tolist()))
    for size in (64, 96, 128, 256):
        images, truth = scenes_at(size, seed=32, count=600)
        if args.fit:
            found = meter.features(meter.ink_map(images)) @ coefficients
        else:
            found = size * scorer.score(images, ScoreContext(prompts=(), seeds=()))
        in_world = (truth / size >= 0.011) & (truth / size <= 0.052)
        off = (found - truth).abs()[in_world]
        within = (off / truth[in_world] < 0.15).float().mean()
        correlation = np.corrcoef(found[in_world], truth[in_world])[0, 1]
        print(
            f"{size:4d} px ({int(in_world.sum())} scenes): mean error {off.mean():.3f} px, bias "
            f"{(found - truth)[in_world].mean():+.3f} px, correlation {correlation:.3f}, within 15% {within:.2f}"
        )


if __name__ == "__main__":
    main()
