"""Sets of rendered scenes with codes and captions, cached on disk."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .scenes import CACHE, OPENMOJI_PACKAGE, Scene, draw_scenes, render_all

SIZE = 64
"""Width and height of the images of the small world, in pixels."""


@dataclasses.dataclass(frozen=True)
class Data:
    """Scenes and their renders, images [N, 64, 64, 3] of uint8."""

    scenes: list[Scene]
    images: npt.NDArray[np.uint8]


def load(name: str, count: int, *, seed: int, pairs: float, names: list[str] | None = None, wide: float = 0.0) -> Data:
    """A set of `count` scenes (see `draw_scenes`), rendered on first use; `name` is part of the file name."""
    scenes = draw_scenes(count, seed=seed, pairs=pairs, names=names, wide=wide)
    drawn = (count, seed, pairs, names, wide, SIZE, OPENMOJI_PACKAGE, Path(__file__).with_name("scenes.py").read_text())
    kept = CACHE / f"{name}-{hashlib.sha256(repr(drawn).encode()).hexdigest()[:12]}.npy"
    if not kept.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(kept, render_all(scenes, SIZE))
    return Data(scenes, np.load(kept, mmap_mode="r"))


def singles() -> Data:
    """Training scenes with one subject."""
    return load("singles", 50_000, seed=1, pairs=0.0)


def doubles() -> Data:
    """Training scenes with two subjects."""
    return load("pairs", 45_000, seed=2, pairs=1.0)


def held_out() -> Data:
    """Scenes for evaluation, never trained on."""
    return load("held-out", 2_000, seed=3, pairs=0.25)
