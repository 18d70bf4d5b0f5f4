"""The random choices of a training step. Each follows from the spec's seed and the number of the step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dualproc.spec import TaskSpec, Train
from dualproc.types import Prompt

from .overlay import Shift, draw_shift
from .seeds import mirrored, training_seed


@dataclass(frozen=True)
class View:
    """How the judge sees B images once."""

    shifts: Sequence[Shift]
    """Of each image's visual prompt."""
    wordings: Sequence[Sequence[int]]
    """[B][Q]: the wording of each question, 0 for its template."""
    noise: Sequence[int]
    """Seed of the noise on each image's pixels."""


@dataclass(frozen=True)
class Draw:
    """The choices for B images."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    anchors: Sequence[int]
    """A seed for each anchor; the same for all images."""
    views: Sequence[View]

    @property
    def texts(self) -> list[str]:
        """The prompts as the generator gets them."""
        return [prompt.text for prompt in self.prompts]

    def part(self, part: slice) -> Draw:
        """The choices for some of the images."""
        views = [View(view.shifts[part], view.wordings[part], view.noise[part]) for view in self.views]
        return replace(self, prompts=self.prompts[part], seeds=self.seeds[part], views=views)


def draw(spec: TaskSpec, prompts: Sequence[Prompt], step: int, rng: random.Random) -> Draw:
    """The choices of a training step, counted from 0, out of these training prompts."""
    train, count = spec.train, range(spec.train.batch)
    chosen = _dealt(train, prompts, step) if train.stratified else rng.choices(prompts, k=train.batch)
    seeds = [training_seed(rng) for _ in count]
    if train.antithetic:
        seeds = [mirrored(seeds[i - 1]) if i % 2 else seed for i, seed in enumerate(seeds)]
    first = _shifts(spec, rng)
    anchors = [training_seed(rng) for anchor in spec.anchors if anchor.weight > 0]
    # What is off by default is drawn last: specs without it draw the same as without these lines.
    shifts = [first, *(_shifts(spec, rng) for _ in range(1, train.views.count))]
    views = [View(each, [_wordings(spec, rng) for _ in count], [training_seed(rng) for _ in count]) for each in shifts]
    return Draw(chosen, seeds, anchors, views)


def _dealt(train: Train, prompts: Sequence[Prompt], step: int) -> list[Prompt]:
    """The prompts of a step, dealt from shuffled decks: none comes again before all others have."""
    places = [divmod(place, len(prompts)) for place in range(step * train.batch, (step + 1) * train.batch)]
    decks = {deck: random.Random(f"{train.seed}/prompts/{deck}").sample(prompts, len(prompts)) for deck in dict(places)}
    return [decks[deck][card] for deck, card in places]


def _shifts(spec: TaskSpec, rng: random.Random) -> list[Shift]:
    shown = spec.visual_prompt
    return [(0.0, 0.0) if shown is None else draw_shift(shown, rng) for _ in range(spec.train.batch)]


def _wordings(spec: TaskSpec, rng: random.Random) -> list[int]:
    return [rng.randrange(1 + len(question.paraphrases)) for question in spec.questions]
