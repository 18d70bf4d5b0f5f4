"""Draw the abstract paintings of specs/composition.yaml: `python -m tools.tiny_world.paintings`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .overlays import paint

SPECS = Path(__file__).resolve().parents[2] / "specs"
SIZE = 512


def main() -> None:
    folder = SPECS / "images"
    folder.mkdir(exist_ok=True)
    line = paint(np.random.default_rng(7), SIZE, x=0.32)
    box = paint(np.random.default_rng(3), SIZE, box=(0.0, 0.5, 0.36, 1.0))
    for name, image in (("composition_line", line), ("composition_box", box)):
        image.convert("RGB").quantize(16).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
