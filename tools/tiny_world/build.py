"""Train all shipped models from scratch: `python -m tools.tiny_world.build [--scale 1.0] [--only STAGE ...]`.

Scenes are rendered from OpenMoji drawings, which are downloaded from npm at a fixed version. VAE, generator, judge and
referee are trained one after another and copied into dualproc/weights, with their model card. This takes about four and
a half hours on two cores. `--scale 0.01` tries every stage and does not touch the shipped weights. It takes 45 minutes,
because rendering, encoding and evaluation take the same time at any scale. Seeds are fixed, but each stage lasts a
fixed time, so the weights differ between machines.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from .scenes import CACHE

WORK = CACHE / "build"
WEIGHTS = Path(__file__).resolve().parents[2] / "dualproc" / "weights"


def stages(scale: float) -> dict[str, list[list[str]]]:
    """The commands of each stage: modules of this package, with arguments."""
    vae, generator = str(WORK / "vae"), str(WORK / "generator")

    def minutes(count: float) -> list[str]:
        return ["--minutes", str(count * scale)]

    def judge(name: str) -> list[list[str]]:
        first, final = str(WORK / f"{name}-renders"), str(WORK / name)
        return [
            ["judges", name, vae, first, *minutes(40)],
            ["judges", name, vae, final, "--start", first, "--generator", generator, "--lr", "6e-4", *minutes(35)],
        ]

    return {
        "vae": [["vae", vae, *minutes(7)]],
        "generator": [["generator", vae, generator, "--compile", *minutes(110)]],
        "judge": judge("judge"),
        "referee": judge("referee"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="factor for all training times")
    parser.add_argument(
        "--only", nargs="*", choices=["vae", "generator", "judge", "referee", "card"], help="run only these stages"
    )
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    plan = stages(args.scale)
    for stage in args.only or [*plan, "card"]:
        for module, *arguments in plan.get(stage, []):
            print(f"--- {stage}: {module} {' '.join(arguments)}", flush=True)
            subprocess.run([sys.executable, "-m", f"tools.tiny_world.{module}", *arguments], check=True)
        if args.scale < 1:
            continue  # a trial must not replace the shipped weights
        if stage in ("generator", "judge", "referee"):
            shutil.rmtree(WEIGHTS / stage, ignore_errors=True)
            shutil.copytree(WORK / stage, WEIGHTS / stage)
        if stage == "card":
            subprocess.run([sys.executable, "-m", "tools.tiny_world.card"], check=True)


if __name__ == "__main__":
    main()
