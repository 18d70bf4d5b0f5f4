"""What looks at pictures, whoever drew them: the judge, the referee and the scorers of a spec."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from dualproc import resolve
from dualproc.protocols import Judge, Scorer, VisualPrompt
from dualproc.spec import TaskSpec

from .ensemble import build_judge
from .overlay import overlay

if TYPE_CHECKING:
    from torch import Tensor


class Instruments:
    """The live plugins of a spec that look at pictures, and the visual prompt through which the judges see them."""

    def __init__(self, spec: TaskSpec) -> None:
        """Load the models. Raises PluginError if one cannot be loaded, SpecError if its parameters are wrong."""
        self.spec = spec
        self.judge: Judge = build_judge(spec.judges)
        self.referee: Judge | None = build_judge(spec.referees) if spec.referees else None
        self.layers: list[VisualPrompt] = [
            resolve.build("visual_prompts", layer)
            for layer in (spec.visual_prompt.layers if spec.visual_prompt else ())
        ]
        self.scorers: list[tuple[str, Scorer]] = [(ref.type, resolve.build("scorers", ref)) for ref in spec.scorers]

    def overlaid(self, images: Tensor, rng: random.Random | None = None) -> Tensor:
        """Images [B, 3, H, W] as the judges see them: with the visual prompt, if the spec has one.

        With `rng`, it is shifted by the spec's jitter; without, as in every measurement, it stays in its place.
        """
        if self.spec.visual_prompt is None:
            return images
        return overlay(images, self.spec.visual_prompt, self.layers, rng)
