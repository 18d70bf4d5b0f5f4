"""Train the shipped generator thick outlines from Python, then draw with the pipeline that comes back.

    python examples/train_and_draw.py --steps 100

Writes the run to runs/example and an image beside it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dualproc import Engine, load_spec
from dualproc.types import StepRecord

ROOT = Path(__file__).resolve().parents[1]


class Printed:
    """Any object with these two methods can watch a fit."""

    def step(self, record: StepRecord, total: int) -> None:
        if record.step % 10 == 0 or record.step == total:
            print(f"step {record.step:3d} of {total}: reward {record.reward:+.2f}")

    def ending(self) -> None: ...

    def images(self, done: int, total: int) -> None:
        print(f"measuring: {done} of {total} images", end="\r")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/example"))
    args = parser.parse_args()

    spec = load_spec(ROOT / "specs/line_weight.yaml", variant="thick", overrides=[f"train.steps={args.steps}"])
    engine = Engine(spec)
    result = engine.fit(args.out, overwrite=True, progress=Printed())

    before, after = result.evaluation.base.scores[0], result.evaluation.trained.scores[0]
    print(f"\nimages on target: {before.on_target:.0%} -> {after.on_target:.0%} (report: {result.run / 'report.html'})")

    settings = engine.generator.recipe().call  # size, steps and guidance that the generator samples with
    image = result.pipeline("a cartoon of an owl on a sunny day", **settings).images[0]
    image.resize((512, 512)).save(result.run / "owl.png")


if __name__ == "__main__":
    main()
