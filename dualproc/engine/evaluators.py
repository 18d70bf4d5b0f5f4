"""What measures images of any origin: the judge, the referee and the scorers of a spec."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from dualproc import resolve
from dualproc.protocols import Judge, Scorer, VisualPrompt
from dualproc.spec import PluginRef, TaskSpec

from .ensemble import build_judge, check_questions
from .overlay import Shift, draw_canvas, overlay

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

CANVASES = 8
"""Canvases of a visual prompt that are kept, each for one image size."""
AIMS = frozenset({"target", "tolerance", "within", "low", "high", "margin", "nearer"})
"""Parameters of scorers that say what is on target, but do not change what is measured."""
Live = list[tuple[PluginRef, Any]]
"""Live plugins, each with the reference that it was built from."""


def live(build: resolve.Builder, kind: str, refs: Sequence[PluginRef], before: Live) -> Live:
    """The live plugins of `refs`, in order; those whose reference has not changed are taken from `before`."""
    pairs = list(zip_longest(refs, before[: len(refs)], fillvalue=None))
    return [old if old and old[0] == ref else (ref, build(kind, ref)) for ref, old in pairs if ref is not None]


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
        wordings = [(question, n) for question in spec.questions for n in range(len(question.wordings))]
        check_questions(self.judge, [question.for_prompt(example, wording=n) for question, n in wordings])
        self.referee: Judge | None = build_judge(spec.referees, build=build) if spec.referees else None
        if self.referee is not None:
            asked = [*spec.measured_questions, *([spec.preserve] if spec.preserve else [])]
            check_questions(self.referee, [question.for_prompt(example) for question in asked])
        self._build = build
        self._canvases: dict[tuple[int, int], Image] = {}
        """The visual prompt drawn once per image size (width, height): layers are deterministic."""
        self.built: dict[str, Live] = {"visual_prompts": [], "scorers": [], "side_effects": []}
        """The live plugins by kind, besides judge and referee."""
        self._live("visual_prompts", _layers(spec))
        self._live("scorers", spec.scorers)
        self._live("side_effects", _side_effects(spec), plugins="scorers")

    def at(self, spec: TaskSpec) -> Evaluators:
        """The same judges with the visual prompt and the scorers of `spec`: this one's, with other slider values.

        Only plugins with other parameters are built, and only when they are used.
        """
        other = copy.copy(self)
        other.spec, other.built, other._canvases = spec, dict(self.built), {}
        return other

    @property
    def layers(self) -> list[VisualPrompt]:
        """The layers of the visual prompt that are not hidden, from bottom to top."""
        return [layer for _, layer in self._live("visual_prompts", _layers(self.spec))]

    @property
    def scorers(self) -> list[tuple[str, Scorer]]:
        """The scorers, each with the name of its plugin."""
        return [(ref.type, scorer) for ref, scorer in self._live("scorers", self.spec.scorers)]

    @property
    def side_effects(self) -> list[tuple[str, Scorer]]:
        """The scorers of what the task does not ask for, each with its label."""
        refs = _side_effects(self.spec)
        return [(ref.label, scorer) for ref, scorer in self._live("side_effects", refs, plugins="scorers")]

    def _live(self, place: str, refs: Sequence[PluginRef], *, plugins: str | None = None) -> Live:
        self.built[place] = live(self._build, plugins or place, refs, self.built[place])
        return self.built[place]

    def judge_view(self, images: Tensor, shifts: Sequence[Shift] | None = None) -> Tensor:
        """Images [B, 3, H, W] as the judges see them: under the visual prompt, if the spec has one.

        Evaluations pass no `shifts`: the visual prompt stays in place.
        """
        if self.spec.visual_prompt is None:
            return images
        height, width = images.shape[-2:]
        if (width, height) not in self._canvases:
            if len(self._canvases) >= CANVASES:  # images of any origin may have as many sizes as there are images
                self._canvases.clear()
            self._canvases[width, height] = draw_canvas(self.layers, width, height)
        return overlay(images, self.spec.visual_prompt, self._canvases[width, height], shifts)


def _side_effects(spec: TaskSpec) -> list[PluginRef]:
    """Without the scorers of the task itself, whatever their targets are."""
    own = set(map(quantity, spec.scorers))
    return [ref for ref in spec.evaluation.side_effects if quantity(ref) not in own]


def quantity(ref: PluginRef) -> str:
    """A text that is the same for scorers that measure the same."""
    return repr((ref.type, sorted((key, repr(value)) for key, value in ref.params.items() if key not in AIMS)))


def _layers(spec: TaskSpec) -> Sequence[PluginRef]:
    """The layers that are drawn."""
    return [layer for layer in spec.visual_prompt.layers if not layer.hidden] if spec.visual_prompt else ()
