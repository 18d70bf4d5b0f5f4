"""The evaluation: base and trained generator on held-out prompts and seeds, measured by judge, referee and scorers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dualproc.kit.devices import without_cudnn_attention
from dualproc.kit.structure import color_map, structure
from dualproc.protocols import Judge, Scorer
from dualproc.spec import QuestionSpec
from dualproc.types import Evaluation, Measurement, Prompt, Sample, Score, ScoreContext
from dualproc.wording import printable

from . import calibration, returned, sliders
from .evaluators import Evaluators
from .loop import Loop
from .seeds import audit_seeds, held_out_seeds, monitoring_seed
from .warned import speaking_as

if TYPE_CHECKING:
    from torch import Tensor

ALIKE = 10
"""The least number of pairs of base images that are compared with the trained ones."""
HACK_LEVEL = 0.3
"""The noise level of the hack meter; fixed, so that runs can be compared."""


@dataclass(frozen=True)
class Images:
    """Held-out images [B, 3, H, W] in [0, 1]; `judge_view` are the trained ones as the judge sees them."""

    base: Tensor
    trained: Tensor
    judge_view: Tensor
    strips: Mapping[str, Tensor] = field(default_factory=dict)
    """For each slider, the first held-out prompt and seed at `sliders.STRIP` values of it."""


def held_out(loop: Loop) -> tuple[list[Prompt], list[int]]:
    """Prompt and seed of every held-out image: each seed is used once, and none of them in training."""
    prompts = [p for p in loop.spec.prompts.eval_prompts() for _ in range(loop.spec.evaluation.seeds)]
    return prompts, held_out_seeds(len(prompts))


@dataclass(frozen=True)
class Drawn:
    """Held-out images, and what the models measure on them."""

    images: Tensor
    """[B, 3, H, W] in [0, 1]."""
    answers: _Answers
    hacked: float
    """The sum of the images' hack meters."""


@dataclass(frozen=True)
class Pair:
    """Base and trained held-out images at one value of the sliders."""

    evaluators: Evaluators
    chosen: Sequence[int]
    """The images' places in the evaluation."""
    base: Drawn
    trained: Drawn


@without_cudnn_attention()
def draw(loop: Loop, advance: Callable[[int], None] = lambda _: None) -> list[Pair]:
    """Base and trained held-out images, for each value of the sliders: all that takes long in an evaluation.

    Called by every process of a fit: each draws and measures a share of the images, and gets those of the others.
    `advance` gets the number of images that this process has just generated.
    """
    import torch

    prompts, seeds = held_out(loop)
    pairs = []
    with torch.no_grad():
        for task, chosen in sliders.groups(loop, sliders.grid(loop.spec, len(seeds))):
            some, own = [prompts[i] for i in chosen], [seeds[i] for i in chosen]
            base, trained = (_shared(task, some, own, base=off, advance=advance) for off in (True, False))
            pairs.append(Pair(task.evaluators, chosen, base, trained))
    return pairs


def _shared(
    loop: Loop, prompts: Sequence[Prompt], seeds: Sequence[int], *, base: bool, advance: Callable[[int], None]
) -> Drawn:
    """These images with the LoRA off or on, of which each process draws and measures a share."""
    import torch

    mine = loop.processes.share(len(seeds))

    def part() -> Drawn | None:
        if mine.start == mine.stop:
            return None
        sample = _sample(loop, prompts[mine], seeds[mine], base=base, advance=advance)
        answers = _answers(loop.evaluators, sample.images, prompts[mine])
        return Drawn(sample.images, answers, _hacked(loop, sample, prompts[mine], seeds[mine]))

    parts = [one for one in loop.processes.collected(part) if one is not None]
    judge, referee, preserved = (_joined(each) for each in zip(*(one.answers for one in parts), strict=True))
    images = torch.cat([one.images for one in parts])
    return Drawn(images, (judge or (), referee, preserved), sum(one.hacked for one in parts))


@without_cudnn_attention()
def evaluate(
    loop: Loop,
    advance: Callable[[int], None] = lambda _: None,
    *,
    drawn: Sequence[Pair] | None = None,
) -> tuple[Evaluation, Images]:
    """Measure the generator with the LoRA off and on; `advance` gets the number of images just generated.

    `drawn` are the images if `draw` has made them.
    """
    import torch

    prompts, seeds = held_out(loop)
    places = sliders.grid(loop.spec, len(seeds))
    images: list[Images] = []
    base_parts: list[calibration.Part] = []
    trained_parts: list[calibration.Part] = []
    drawn = draw(loop, advance) if drawn is None else drawn
    with torch.no_grad():
        for pair in drawn:
            some, own = [prompts[i] for i in pair.chosen], [seeds[i] for i in pair.chosen]
            base, trained = pair.base.images, pair.trained.images
            before, after = (
                replace(
                    _measured(pair.evaluators, one.images, some, own, base, one.answers),
                    hack_meter=one.hacked / len(pair.chosen),
                )
                for one in (pair.base, pair.trained)
            )
            alike = alike_diversity(base, [prompt.text for prompt in some], before.scores, after.scores)
            base_parts.append((pair.chosen, replace(before, alike_diversity=alike)))
            trained_parts.append((pair.chosen, after))
            images.append(Images(base, trained, pair.evaluators.judge_view(trained)))
        strips = {name: _strip(loop, name, prompts[0], seeds[0], advance) for name in loop.spec.sliders}
    evaluation = Evaluation(
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        base=calibration.merged(base_parts, loop.spec, places),
        trained=calibration.merged(trained_parts, loop.spec, places),
        asked={name: tuple(values[name] for values in places) for name in loop.spec.sliders},
    )
    return evaluation, _in_order(images, [index for chosen, _ in trained_parts for index in chosen], strips)


def _in_order(parts: Sequence[Images], indices: Sequence[int], strips: Mapping[str, Tensor]) -> Images:
    """The images of several values of the sliders in the order of the evaluation."""
    import torch

    if len(parts) == 1:
        return replace(parts[0], strips=strips)
    order = sorted(range(len(indices)), key=indices.__getitem__)
    base, trained, seen = (
        torch.cat(images)[order]
        for images in zip(*((part.base, part.trained, part.judge_view) for part in parts), strict=True)
    )
    return Images(base, trained, seen, strips)


def _strip(loop: Loop, name: str, prompt: Prompt, seed: int, advance: Callable[[int], None]) -> Tensor:
    """[STRIP, 3, H, W]: one prompt and seed with a slider at values from end to end, the others in the middle."""
    import torch

    places = sliders.spread(loop.spec, name, sliders.STRIP)
    drawn = [_sample(task, [prompt], [seed], base=False, advance=advance) for task, _ in sliders.groups(loop, places)]
    return torch.cat([sample.images for sample in drawn])


def measure_images(
    evaluators: Evaluators,
    images: Tensor,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    base_images: Tensor | None = None,
) -> Measurement:
    """What can be measured on images [B, 3, H, W] of any origin: all but the hack meter, which is nan."""
    return _measured(evaluators, images, prompts, seeds, base_images, _answers(evaluators, images, prompts))


_Answers = tuple[tuple[float, ...], tuple[float, ...] | None, tuple[float, ...] | None]
"""P(wanted answer), one per image: the judge's, the referee's, and the referee's to the `preserve` question."""


def _answers(evaluators: Evaluators, images: Tensor, prompts: Sequence[Prompt]) -> _Answers:
    """What judge and referee answer about images [B, 3, H, W]."""
    spec, referee = evaluators.spec, evaluators.referee
    questions, preserve, size = spec.measured_questions, spec.preserve, spec.evaluation.batch
    judges = {"judge": evaluators.judge, **({"referee": referee} if referee else {})}
    judged, *refereed = _p_wanted(judges, images, prompts, questions, size, evaluators.judge_view)
    preserved = None
    if referee and preserve:
        (preserved,) = _p_wanted({"referee": referee}, images, prompts, [preserve], size)
    return judged, refereed[0] if refereed else None, preserved


def _measured(
    evaluators: Evaluators,
    images: Tensor,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    base_images: Tensor | None,
    answers: _Answers,
) -> Measurement:
    """The answers, and what scorers and diversity say about the same images; the hack meter is nan."""
    context = ScoreContext(prompts=prompts, seeds=seeds, base_images=base_images)
    texts = [prompt.text for prompt in prompts]
    judge, referee, preserved = answers
    return Measurement(
        scores=tuple(_score(name, scorer, images, context) for name, scorer in evaluators.scorers),
        judge=judge,
        referee=referee,
        preserved=preserved,
        hack_meter=float("nan"),
        diversity=diversity(images, texts),
        color_diversity=color_diversity(images, texts),
        side_effects=tuple(_score(name, scorer, images, context) for name, scorer in evaluators.side_effects),
    )


def measure_batches(
    evaluators: Evaluators, batches: Iterable[Tensor], prompt: Prompt, advance: Callable[[int], None] = lambda _: None
) -> Measurement:
    """What scorers, judge and referee measure on images of any origin, one number per image, in order.

    `batches` are [B, 3, H, W] in [0, 1], at least one image; batches may differ in size. Hack meter and diversity are
    nan, because the generator is unknown; scorers that compare with base images give nan. `prompt` fills the questions'
    fields; `advance` gets the number of images just measured.
    """
    import torch

    parts = []
    with torch.no_grad():
        for images in batches:
            count = len(images)
            parts.append(measure_images(evaluators, images, [prompt] * count, [0] * count))
            advance(count)
    return Measurement(
        scores=tuple(_joined_scores(scores) for scores in zip(*(part.scores for part in parts), strict=True)),
        judge=_joined(part.judge for part in parts) or (),
        referee=_joined(part.referee for part in parts),
        preserved=_joined(part.preserved for part in parts),
        hack_meter=float("nan"),
        diversity=float("nan"),
    )


def hack_meter(loop: Loop, sample: Sample, prompts: Sequence[Prompt], seeds: Sequence[int]) -> float:
    """Mean squared distance between latents and what the base model denoises them to from noise level `HACK_LEVEL`."""
    return _hacked(loop, sample, prompts, seeds) / len(seeds)


def _hacked(loop: Loop, sample: Sample, prompts: Sequence[Prompt], seeds: Sequence[int]) -> float:
    """The hack meter of each image, added up."""
    total = 0.0
    for part in _batches(len(seeds), loop.spec.evaluation.batch):
        latents, texts = sample.latents[part], [prompt.text for prompt in prompts[part]]
        again = returned.denoised(loop.generator, latents, HACK_LEVEL, texts, seeds[part])
        total += (latents - again).square().flatten(1).mean(1).sum().item()
    return total


def diversity(images: Tensor, prompts: Sequence[str]) -> float:
    """How much the layout of images [B, 3, H, W] of the same prompt differs; nan if no prompt has two images.

    The mean, over all pairs of images of one prompt, of 1 - the correlation of their blurred edge maps
    (`dualproc.kit.structure`): 0 for identical images, about 1 for unrelated layouts. Colours and line weight change it
    little, so a LoRA that changes only these does not lower it.
    """
    return _mean_of_pairs(structure(images), prompts, lambda same: 1 - same @ same.T)


def color_diversity(images: Tensor, prompts: Sequence[str]) -> float:
    """How much the colours of images [B, 3, H, W] of the same prompt differ; nan if no prompt has two images.

    The mean, over all pairs of images of one prompt, of the distance of the blurred images in CIELAB
    (`dualproc.kit.structure.color_map`): 0 for identical images. In images with the same colours at other places, it is
    not 0.
    """
    import torch

    return _mean_of_pairs(color_map(images), prompts, lambda same: torch.cdist(same, same))


def alike_diversity(images: Tensor, prompts: Sequence[str], before: Sequence[Score], after: Sequence[Score]) -> float:
    """The `diversity` of base images [B, 3, H, W] that are as alike in the task itself as the trained ones.

    A task that is a place lowers the diversity by definition: images with the same horizon are alike. So the trained
    images are compared with those pairs of base images whose scores (`before`) differ at most as much as those of nine
    in ten pairs of trained images (`after`), in every scorer; if these are fewer than `ALIKE`, with the most alike
    pairs. nan without a scorer, or if a scorer has too few values.
    """
    import torch

    def differences(scores: Sequence[Score]) -> Tensor:
        """[scorers, pairs]; nan where an image has no value."""
        each = (torch.tensor(score.values, dtype=torch.float64)[:, None] for score in scores)
        return torch.stack([_pairs(values, prompts, lambda same: torch.cdist(same, same)) for values in each])

    if not before or len(set(prompts)) == len(prompts):
        return math.nan
    limits = differences(after).nanquantile(0.9, dim=1, keepdim=True).clamp(min=1e-9)
    unlike = (differences(before) / limits).amax(dim=0)  # at most 1: as alike as the trained images
    layouts, known = _pairs(structure(images), prompts, lambda same: 1 - same @ same.T), unlike.isfinite()
    unlike, order = unlike[known].sort(stable=True)
    count = max(ALIKE, int((unlike <= 1).sum()))
    return layouts[known][order[:count]].mean().item() if len(order) >= ALIKE else math.nan


def _mean_of_pairs(vectors: Tensor, prompts: Sequence[str], differences: Callable[[Tensor], Tensor]) -> float:
    """The mean of `differences` [N, N] of N vectors, over all pairs of images of one prompt; nan without a pair."""
    together = _pairs(vectors, prompts, differences)
    return together.mean().item() if len(together) else math.nan


def _pairs(vectors: Tensor, prompts: Sequence[str], differences: Callable[[Tensor], Tensor]) -> Tensor:
    """[pairs]: `differences` [N, N] of N vectors, for all pairs of images of one prompt."""
    import torch

    found = []
    for prompt in dict.fromkeys(prompts):
        same = vectors[[i for i, other in enumerate(prompts) if other == prompt]]
        first, second = torch.triu_indices(len(same), len(same), offset=1)
        found.append(differences(same)[first, second])
    return torch.cat(found)


@without_cudnn_attention()
def monitor(loop: Loop) -> tuple[float | None, float]:
    """The referee's mean P(wanted answer), if there is a referee, and the hack meter, in the middle of a fit.

    It uses training prompts with separate seeds, because held-out images must not decide when to stop.
    """
    import torch

    count = loop.spec.train.watch.images
    rng = random.Random(f"{loop.spec.train.seed}/watch")
    prompts = rng.choices(loop.prompts, k=count)
    seeds = [monitoring_seed(rng) for _ in prompts]
    referee, size = loop.evaluators.referee, loop.spec.evaluation.batch
    hacked, scores = 0.0, list[float]()
    with torch.no_grad():
        for task, chosen in sliders.groups(loop, sliders.grid(loop.spec, count)):
            some, own = [prompts[i] for i in chosen], [seeds[i] for i in chosen]
            sample = _sample(task, some, own, base=False)
            hacked += hack_meter(task, sample, some, own) * len(chosen) / count
            if referee is not None:
                questions = task.evaluators.spec.measured_questions
                judges = {"referee": referee}
                scores += _p_wanted(judges, sample.images, some, questions, size, task.judge_view)[0]
    return (sum(scores) / count if referee is not None else None), hacked


@without_cudnn_attention()
def preview(loop: Loop) -> tuple[Tensor, Tensor]:
    """Base and trained images [B, 3, H, W] of the spec's preview prompts, one each; sliders are in the middle.

    Like `monitor`, it takes no random number that training uses.
    """
    import torch

    prompts = [Prompt(text) for text in loop.spec.preview_prompts()]
    seeds = audit_seeds(len(prompts))
    with torch.no_grad():
        task = loop.at({})
        base, trained = (_sample(task, prompts, seeds, base=off).images for off in (True, False))
    return base, trained


def _sample(
    loop: Loop,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    base: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> Sample:
    """The images in main memory, where all of them fit; the latents, far smaller, on their device."""
    import torch

    made = []
    for part in _batches(len(seeds), loop.spec.evaluation.batch):
        texts = [prompt.text for prompt in prompts[part]]
        sample = returned.sample(loop.generator, texts, seeds[part], base=base)
        made.append(replace(sample, images=sample.images.cpu()))
        advance(len(texts))
    return Sample(torch.cat([s.images for s in made]), torch.cat([s.latents for s in made]))


def _p_wanted(
    judges: Mapping[str, Judge],
    images: Tensor,
    prompts: Sequence[Prompt],
    questions: Sequence[QuestionSpec],
    size: int,
    view: Callable[[Tensor], Tensor] = lambda images: images,
) -> list[tuple[float, ...]]:
    """For each judge: P(wanted answer), mean over the questions, one per image. `view` makes what the judges see.

    `judges` are by role, `judge` or `referee`.
    """
    wanted = [question.wanted for question in questions]
    out: list[list[float]] = [[] for _ in judges]
    for part in _batches(len(prompts), size):
        asked = [[question.for_prompt(prompt) for question in questions] for prompt in prompts[part]]
        seen = view(images[part])
        for (role, judge), found in zip(judges.items(), out, strict=True):
            with speaking_as(role):
                found += returned.answers(judge, seen, asked).p_wanted(wanted).tolist()
    return [tuple(found) for found in out]


def _score(name: str, scorer: Scorer, images: Tensor, context: ScoreContext) -> Score:
    values = returned.values(scorer, images, context)
    accepted: tuple[float, float] | None = getattr(scorer, "accepted", None)
    return Score(
        name=name,
        unit=printable(str(scorer.unit)),
        better=printable(str(scorer.better)),
        values=values,
        target=getattr(getattr(scorer, "params", None), "target", None),
        accepted=accepted,
        on_target=share_on_target(values, accepted),
    )


def share_on_target(values: Sequence[float], accepted: tuple[float, float] | None) -> float | None:
    """Share of the values that are accepted; None if the scorer accepts no range, or no value is finite."""
    if accepted is None or not any(map(math.isfinite, values)):
        return None
    low, high = accepted  # nan compares false: an image without a value counts as missed
    return sum(low <= value <= high for value in values) / len(values)


def _joined_scores(scores: Sequence[Score]) -> Score:
    """One scorer's measurements of several batches as one."""
    values = tuple(value for score in scores for value in score.values)
    return replace(scores[0], values=values, on_target=share_on_target(values, scores[0].accepted))


def _joined(parts: Iterable[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    """The numbers of several batches in a row; None if they were not measured."""
    joined: list[float] = []
    for part in parts:
        if part is None:
            return None
        joined += part
    return tuple(joined)


def _batches(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
