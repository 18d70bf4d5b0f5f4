"""What measures images of any origin: the judge, the referee and the scorers of a spec."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from dualproc import resolve
from dualproc.protocols import Judge, Scorer, VisualPrompt
from dualproc.spec import TaskSpec

from .ensemble import build_judge, check_questions
from .overlay import draw_canvas, overlay

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Evaluators:
    """The live judge, referee and scorers of a spec, and the visual prompt through which the judges see images."""

    def __init__(self, spec: TaskSpec, *, build: resolve.Builder = resolve.build) -> None:
        """Load the models.

        Raises PluginError if one cannot be loaded, or a judge cannot answer the spec's questions; SpecError if its
        parameters are wrong.
        """
        self.spec = spec
        example = spec.prompts.train_prompts()[0]
        self.judge: Judge = build_judge(spec.judges, build=build)
        check_questions(self.judge, [question.for_prompt(example) for question in spec.questions])
        self.referee: Judge | None = build_judge(spec.referees, build=build) if spec.referees else None
        if self.referee is not None:
            asked = [*spec.measured_questions, *([spec.preserve] if spec.preserve else [])]
            check_questions(self.referee, [question.for_prompt(example) for question in asked])
        self.layers: list[VisualPrompt] = [
            build("visual_prompts", layer) for layer in (spec.visual_prompt.layers if spec.visual_prompt else ())
        ]
        self._canvases: dict[tuple[int, int], Image] = {}
        """The visual prompt drawn once per image size (width, height): layers are deterministic."""
        self.scorers: list[tuple[str, Scorer]] = [(ref.type, build("scorers", ref)) for ref in spec.scorers]

    def judge_view(self, images: Tensor, rng: random.Random | None = None) -> Tensor:
        """Images [B, 3, H, W] as the judges see them: under the visual prompt, if the spec has one.

        With `rng`, the visual prompt is shifted by the spec's jitter. Evaluations pass no `rng`: it stays in place.
        """
        if self.spec.visual_prompt is None:
            return images
        height, width = images.shape[-2:]
        if (width, height) not in self._canvases:
            self._canvases[width, height] = draw_canvas(self.layers, width, height)
        return overlay(images, self.spec.visual_prompt, self._canvases[width, height], rng)
