"""The proof: base and taught generator on held-out prompts and seeds, measured by what took no part in teaching."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dualproc.protocols import Judge, Scorer
from dualproc.spec import QuestionSpec
from dualproc.structure import structure
from dualproc.types import Evaluation, Measurement, Prompt, Sample, Score, ScoreContext

from .instruments import Instruments
from .loop import SEEDS, Engine, wanted_probability

if TYPE_CHECKING:
    from torch import Tensor

HACK_LEVEL = 0.3
"""The noise level at which the hack meter is read; fixed, so that runs can be compared."""


@dataclass(frozen=True)
class Pictures:
    """Held-out pictures [B, 3, H, W] in [0, 1]; `overlaid` are the taught ones as the judge sees them."""

    base: Tensor
    taught: Tensor
    overlaid: Tensor


def held_out(engine: Engine) -> tuple[list[Prompt], list[int]]:
    """Prompt and seed of every held-out picture: no two from the same seed, none from a seed that may be trained on."""
    prompts = [p for p in engine.spec.prompts.eval_prompts() for _ in range(engine.spec.evaluation.seeds)]
    return prompts, [SEEDS + index for index in range(len(prompts))]


def evaluate(engine: Engine, advance: Callable[[int], None] = lambda _: None) -> tuple[Evaluation, Pictures]:
    """Measure the generator with the LoRA off and on; `advance` is told of every picture made."""
    import torch

    prompts, seeds = held_out(engine)
    with torch.no_grad():
        base = _sample(engine, prompts, seeds, base=True, advance=advance)
        taught = _sample(engine, prompts, seeds, base=False, advance=advance)
        evaluation = Evaluation(
            prompts=tuple(prompts),
            seeds=tuple(seeds),
            base=measure(engine, base, prompts, seeds, base.images),
            taught=measure(engine, taught, prompts, seeds, base.images),
        )
        return evaluation, Pictures(base.images, taught.images, engine.overlaid(taught.images))


def measure(
    engine: Engine, sample: Sample, prompts: Sequence[Prompt], seeds: Sequence[int], base_images: Tensor | None
) -> Measurement:
    """Everything that is measured on one set of pictures that the engine's generator has drawn."""
    measured = measure_pictures(engine.instruments, sample.images, prompts, seeds, base_images)
    return replace(measured, hack_meter=hack_meter(engine, sample, prompts, seeds))


def measure_pictures(
    instruments: Instruments,
    images: Tensor,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    base_images: Tensor | None = None,
) -> Measurement:
    """What can be measured on pictures [B, 3, H, W], whoever drew them: all but the hack meter, which is nan."""
    spec, seen = instruments.spec, instruments.overlaid
    context = ScoreContext(prompts=prompts, seeds=seeds, base_images=base_images)
    questions, preserve, size = spec.measured_questions, spec.preserve, spec.evaluation.batch
    referee = instruments.referee
    judges = [instruments.judge, *([referee] if referee else [])]
    judged, *refereed = _asked(judges, images, prompts, questions, size, seen)
    return Measurement(
        scores=tuple(_score(name, scorer, images, context) for name, scorer in instruments.scorers),
        judge=judged,
        referee=refereed[0] if refereed else None,
        preserved=_asked([referee], images, prompts, [preserve], size)[0] if referee and preserve else None,
        hack_meter=float("nan"),
        diversity=diversity(images, [prompt.text for prompt in prompts]),
    )


def hack_meter(engine: Engine, sample: Sample, prompts: Sequence[Prompt], seeds: Sequence[int]) -> float:
    """Mean squared distance of the latents to what the base makes of them, re-noised to `HACK_LEVEL`."""
    total = 0.0
    for part in _batches(len(seeds), engine.spec.evaluation.batch):
        latents, texts = sample.latents[part], [prompt.text for prompt in prompts[part]]
        again = engine.generator.denoise(latents, HACK_LEVEL, texts, seeds[part], base=True)
        total += (latents - again).square().flatten(1).mean(1).sum().item()
    return total / len(seeds)


def diversity(images: Tensor, prompts: Sequence[str]) -> float:
    """How much the structure of pictures [B, 3, H, W] of the same prompt differs; nan if no prompt has two.

    The mean, over all pairs of pictures of one prompt, of 1 - the correlation of their blurred maps of edges
    (`dualproc.structure`): 0 for identical pictures, about 1 for unrelated layouts. Colours and the weight of lines
    change it little, so that teaching these does not lower it.
    """
    import torch

    layouts = structure(images)
    distances = []
    for prompt in dict.fromkeys(prompts):
        same = layouts[[i for i, other in enumerate(prompts) if other == prompt]]
        first, second = torch.triu_indices(len(same), len(same), offset=1)
        distances.append(1 - (same @ same.T)[first, second])
    together = torch.cat(distances)
    return together.mean().item() if len(together) else float("nan")


def glance(engine: Engine) -> tuple[float | None, float]:
    """A look at a fit that goes on: the referee's mean P(wanted answer), if there is one, and the hack meter.

    At training prompts, with seeds of their own: looking at the held-out pictures would tune the fit on them.
    """
    import torch

    count = engine.spec.train.watch.pictures
    rng = random.Random(f"{engine.spec.train.seed}/watch")
    prompts = rng.choices(engine.prompts, k=count)
    seeds = [2 * SEEDS + rng.randrange(SEEDS) for _ in prompts]
    with torch.no_grad():
        sample = _sample(engine, prompts, seeds, base=False)
        hacked = hack_meter(engine, sample, prompts, seeds)
        referee = engine.instruments.referee
        if referee is None:
            return None, hacked
        questions, size = engine.spec.measured_questions, engine.spec.evaluation.batch
        (scores,) = _asked([referee], sample.images, prompts, questions, size, engine.overlaid)
    return sum(scores) / count, hacked


def _sample(
    engine: Engine,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    base: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> Sample:
    """The pictures in main memory, where there is room for all of them; the latents, far smaller, where they are."""
    import torch

    made = []
    for part in _batches(len(seeds), engine.spec.evaluation.batch):
        texts = [prompt.text for prompt in prompts[part]]
        sample = engine.generator.sample(texts, seeds[part], base=base)
        made.append(replace(sample, images=sample.images.cpu()))
        advance(len(texts))
    return Sample(torch.cat([s.images for s in made]), torch.cat([s.latents for s in made]))


def _asked(
    judges: Sequence[Judge],
    images: Tensor,
    prompts: Sequence[Prompt],
    questions: Sequence[QuestionSpec],
    size: int,
    seen: Callable[[Tensor], Tensor] = lambda images: images,
) -> list[tuple[float, ...]]:
    """Of each judge: P(wanted answer), mean over the questions, one a picture. `seen` makes what it is shown."""
    wanted = [question.candidates.index(question.answer) for question in questions]
    out: list[list[float]] = [[] for _ in judges]
    for part in _batches(len(prompts), size):
        asked = [[question.for_prompt(prompt) for question in questions] for prompt in prompts[part]]
        shown = seen(images[part])
        for judge, found in zip(judges, out, strict=True):
            found += wanted_probability(judge.answer_log_likelihoods(shown, asked).log_likelihoods, wanted).tolist()
    return [tuple(found) for found in out]


def _score(name: str, scorer: Scorer, images: Tensor, context: ScoreContext) -> Score:
    values = tuple(scorer.score(images, context).tolist())
    accepted: tuple[float, float] | None = getattr(scorer, "accepted", None)
    return Score(
        name=name,
        unit=scorer.unit,
        better=scorer.better,
        values=values,
        target=getattr(getattr(scorer, "params", None), "target", None),
        accepted=accepted,
        on_target=share_on_target(values, accepted),
    )


def share_on_target(values: Sequence[float], accepted: tuple[float, float] | None) -> float | None:
    """Share of the values that are accepted; None where no range is."""
    if accepted is None:
        return None
    low, high = accepted  # a nan compares false: what cannot be measured is missed
    return sum(low <= value <= high for value in values) / len(values)


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
