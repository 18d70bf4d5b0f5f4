"""The questions that the judges of the small world learn: wordings, overlays and how much "Yes" is right.

A question draws, for a batch of scenes, the text, the overlay's parameters and the wanted log-odds of Yes against No.
The next task's questions are added here: one function and one line in QUESTIONS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .scenes import HORIZON_RANGE, NAMES, Scene

SUFFIX = "Answer with Yes or No."
SURE = 3.5
"""Log-odds of an answer that is plainly right."""
WORDINGS = {
    "line_weight": (
        "Does the line weight of the image match the red line overlaid at the bottom?",
        "Ignoring the line color, does the line weight of the image match the red line overlaid at the bottom?",
        "Are the outlines of the drawing as thick as the red line?",
        "Is the red line as thick as the outlines of the image?",
        "Does the line weight of the image match the overlaid red line?",
    ),
    "horizon": (
        "Does the overlaid red line represent the horizon of the scene?",
        "Is the overlaid red line aligned with the horizon of the scene?",
        "Is the red line at the horizon of the image?",
        "Does the red line match the horizon?",
    ),
    "subject": (
        "Is this a drawing of {}?",
        "Is this a cartoon of {}?",
        "Is there {} in the image?",
        "Does the image show {}?",
    ),
}


@dataclass(frozen=True)
class Asked:
    """One question about one scene: its text, a horizontal red bar or none, and the right log-odds of Yes."""

    text: str
    log_odds: float
    bar: tuple[float, float, float, float] | None = None
    """Left, right, centre row and width, as fractions of the picture."""
    names: tuple[str, ...] = ()
    """The right answers, each as good, where it is not Yes or No that is asked for."""
    about: str | None = None
    """The word of the question that the picture has to be compared with."""


def line_weight(scene: Scene, rng: np.random.Generator) -> Asked:
    """Judged by the ratio, with a tail that keeps a slope far from the target."""
    shift = rng.normal(0, 0.12) if rng.random() < 0.35 else rng.uniform(-1.6, 1.6)
    width = float(np.clip(scene.line_weight * np.exp(shift), 0.006, 0.07))
    left = 0.05 if rng.random() < 0.6 else rng.uniform(0, 0.4)
    right = 0.95 if left == 0.05 else rng.uniform(0.6, 1)
    row = rng.uniform(0.8, 0.96) if rng.random() < 0.5 else rng.uniform(0.04, 0.96)
    off = abs(np.log(scene.line_weight / width))
    return Asked(_wording("line_weight", rng), SURE - 6.5 * np.sqrt(off), (left, right, float(row), width))


def horizon(scene: Scene, rng: np.random.Generator) -> Asked:
    """Judged by the distance between bar and horizon, in 64ths of the height."""
    near = rng.random() < 0.4
    row = scene.horizon + rng.normal(0, 0.02) if near else rng.uniform(HORIZON_RANGE[0] - 0.12, HORIZON_RANGE[1] + 0.22)
    row = float(np.clip(row, 0.04, 0.96))
    off = 64 * abs(row - scene.horizon)
    return Asked(_wording("horizon", rng), SURE - 2.2 * np.sqrt(off), (0.0, 1.0, row, float(rng.uniform(0.012, 0.03))))


def subject(scene: Scene, rng: np.random.Generator, names: list[str] = NAMES) -> Asked:
    """Half of the questions name a subject that is there."""
    right = rng.random() < 0.5
    name = str(rng.choice(scene.subjects if right else [n for n in names if n not in scene.subjects]))
    text = _wording("subject", rng, f"{'an' if name[0] in 'aeiou' else 'a'} {name}")
    bar = line_weight(scene, rng).bar if rng.random() < 0.4 else None  # asked about overlaid pictures too
    return Asked(text, SURE if right else -SURE, bar, about=name)


def name(scene: Scene, rng: np.random.Generator) -> Asked:
    """What is in the picture? Teaches the judge the subjects' words; without it, "is this a cat?" is never learnt."""
    bar = line_weight(scene, rng).bar if rng.random() < 0.4 else None
    return Asked("What is this a drawing of?", 0.0, bar, names=scene.subjects)


QUESTIONS: dict[str, tuple[Callable[..., Asked], float]] = {
    "line_weight": (line_weight, 0.27),
    "horizon": (horizon, 0.13),
    "subject": (subject, 0.45),
    "name": (name, 0.15),
}
"""Each question's function and its share of the training."""


def ask(kind: str, scene: Scene, rng: np.random.Generator, names: list[str]) -> Asked:
    return subject(scene, rng, names) if kind == "subject" else QUESTIONS[kind][0](scene, rng)


def overlay(images: torch.Tensor, asked: list[Asked]) -> torch.Tensor:
    """Lay the red bars over images [B, 3, H, W] in [0, 1], antialiased by exact coverage."""
    height, width = images.shape[-2:]
    bars = torch.tensor([a.bar or (0.0, 0.0, 0.5, 0.0) for a in asked])
    left, right, row, thick = (column[:, None] for column in bars.unbind(1))
    covered_x = _coverage(left * width, right * width, width)
    covered_y = _coverage((row - thick / 2) * height, (row + thick / 2) * height, height)
    alpha = covered_y[:, None, :, None] * covered_x[:, None, None, :]
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    return images * (1 - alpha) + red * alpha


def _coverage(start: torch.Tensor, end: torch.Tensor, size: int) -> torch.Tensor:
    edges = torch.arange(size)[None]
    return (torch.minimum(end, edges + 1.0) - torch.maximum(start, edges)).clamp(0, 1)


def _wording(kind: str, rng: np.random.Generator, *parts: str) -> str:
    text = str(rng.choice(WORDINGS[kind])).format(*parts)
    return f"{text} {SUFFIX}" if rng.random() < 0.8 else text
