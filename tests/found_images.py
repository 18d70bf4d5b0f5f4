"""Image files and a spec for the tests of `dp ask` and `dp score`, and a function that runs `dp`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from dualproc.cli import main
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.run import write_images

SPEC = """\
name: found
prompts: {template: "a cartoon of {subject}", train: [a cat], eval: [a dog]}
question: {template: "Does the red line match the horizon?"}
preserve: {template: "Is this a drawing of {subject}?"}
visual_prompt: {layers: [{type: line, from: [0, "{row}"], to: [1, "{row}"], width: 0.02}]}
variants: {high: {row: 0.3}, low: {row: 0.6}}
generator: {type: diffusers, model: /no/such/model}
referee: {type: tiny-referee}
scorers: [{type: horizon, target: "{row}"}, {type: kept}]
"""


def cats(folder: Path, count: int = 3) -> list[Path]:
    """Drawings of cats by the shipped generator, 64 x 64 pixels: `cat0.png`, `cat1.png`, ..."""
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    with torch.no_grad():
        images = generator.sample(["a cartoon of a cat"] * count, range(1, count + 1)).images
    return write_images(folder, images, [f"cat{index}.png" for index in range(count)])


def dp(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run a command; returns exit code, stdout and stderr."""
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    out, err = capsys.readouterr()
    return code, out, err


def row(out: str, start: str) -> Sequence[str]:
    """The words of the only line that begins with `start`."""
    (found,) = (line for line in out.splitlines() if line.startswith(start))
    return found.split()
