"""Train the shipped generator to draw thick outlines, then generate an image with the trained pipeline.

    python examples/train_and_draw.py --steps 100

Writes the run folder to runs/example, and the image to runs/example/owl.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dualproc import Engine, load_spec
from dualproc.types import StepRecord

ROOT = Path(__file__).resolve().parents[1]


class PrintedProgress:
    """Prints the progress of a fit; any object with these three methods can be passed as `progress`."""

    def step(self, record: StepRecord, total: int) -> None:
        if record.step % 10 == 0 or record.step == total:
            print(f"training: step {record.step:3d} of {total}, reward {record.reward:+.2f}")

    def ending(self) -> None: ...

    def images(self, done: int, total: int) -> None:
        print(f"evaluating: {done} of {total} images", end="\r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="training steps (default: 100)")
    parser.add_argument("--out", type=Path, default=Path("runs/example"), help="run folder (default: runs/example)")
    args = parser.parse_args()

    spec = load_spec(ROOT / "specs/line_weight.yaml", variant="thick", overrides=[f"train.steps={args.steps}"])
    engine = Engine(spec)
    result = engine.fit(args.out, overwrite=True, progress=PrintedProgress())

    before, after = result.evaluation.base.scores[0], result.evaluation.trained.scores[0]
    print(f"\nimages on target: {before.on_target:.0%} -> {after.on_target:.0%} (report: {result.run / 'report.html'})")

    settings = engine.generator.recipe().call  # size, sampling steps and guidance, as in training
    image = result.pipeline("a cartoon of an owl on a sunny day", **settings).images[0]
    image.resize((512, 512)).save(result.run / "owl.png")


if __name__ == "__main__":
    main()
