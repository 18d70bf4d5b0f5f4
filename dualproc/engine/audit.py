"""The audit of a spec before training: what judge and referee answer to its questions about base images."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualproc import resolve
from dualproc.kit.devices import without_cudnn_attention
from dualproc.protocols import Generator, Judge
from dualproc.spec import QuestionSpec, TaskSpec
from dualproc.types import Prompt
from dualproc.wording import number

from . import returned
from .ask import SAYABLE
from .evaluators import Evaluators
from .seeds import audit_seeds
from .warned import noting, speaking_as

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = 16
"""Base images of an audit; with fewer, chance makes answers look alike."""
ALIKE = 0.25
"""Log-odds of answers that spread less than this (standard deviation over the images) count as alike.

The questions of the shipped specs that measure the task spread .42 or more, for the shipped models."""
SAME_VIEW = 0.1
"""Mean change of the log-odds below which the visual prompt counts as ignored."""
ALREADY = 0.9
"""Mean P(wanted answer) on base images from which a question counts as already answered."""
RECOGNISED = 0.5
"""Mean P(wanted answer) to the `preserve` question below which the subject counts as not recognised."""


@dataclass(frozen=True)
class Answered:
    """One question to the judge or the referee: P(wanted answer) for every base image, and what is wrong with it."""

    role: str
    """`judge` or `referee`."""
    question: QuestionSpec
    seen: tuple[float, ...]
    """As in training: under the visual prompt, if the spec has one. The `preserve` question is asked without it."""
    plain: tuple[float, ...] | None
    """Without the visual prompt; None if the question is not asked with one."""
    findings: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Mean P(wanted answer), as in training."""
        return sum(self.seen) / len(self.seen)

    @property
    def plain_mean(self) -> float | None:
        """Mean P(wanted answer) without the visual prompt."""
        return None if self.plain is None else sum(self.plain) / len(self.plain)


@dataclass(frozen=True, eq=False)
class Audit:
    """The base images of an audit, the answers about them, and every finding."""

    prompts: tuple[Prompt, ...]
    """One per image; training prompts, because held-out images must not decide how a question is worded."""
    seeds: tuple[int, ...]
    images: Tensor
    """[B, 3, H, W] in [0, 1]."""
    judge_view: Tensor
    """The images as the judge sees them."""
    answers: tuple[Answered, ...]
    warnings: tuple[str, ...]
    """Words that generator, judge or referee do not know."""

    @property
    def findings(self) -> tuple[str, ...]:
        """Everything that should be fixed before training; empty if there is nothing."""
        found = [f'{one.role}, "{one.question.template}": {text}' for one in self.answers for text in one.findings]
        return (*found, *self.warnings)


def audit_spec(spec: TaskSpec, *, images: int = IMAGES) -> Audit:
    """Load the models of a spec, and audit it; sliders are in the middle.

    Raises SpecError if a plugin's parameters are wrong, PluginError if a plugin cannot be loaded.
    """
    resolve.check_plugins(spec)
    generator: Generator = resolve.build("generators", spec.generator)
    evaluators = Evaluators(spec.at({}).model_copy(update={"scorers": ()}))  # scorers are not asked: do not load
    return audit(generator, evaluators, images=images)


@contextmanager
def _hidden() -> Iterator[None]:
    """Within, warnings are not shown: those that are noted become findings."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda *_, **__: None
        yield


@without_cudnn_attention()
def audit(generator: Generator, evaluators: Evaluators, *, images: int = IMAGES) -> Audit:
    """Ask the questions of `evaluators.spec` about base images: `images` of them, of its training prompts in turn."""
    import torch

    spec, notes = evaluators.spec, list[str]()
    known = spec.prompts.train_prompts()
    prompts, seeds = [known[index % len(known)] for index in range(images)], audit_seeds(images)
    texts, size = [prompt.text for prompt in prompts], spec.evaluation.batch
    parts = [slice(start, start + size) for start in range(0, images, size)]
    with _hidden(), noting(notes), torch.no_grad():
        held_out = [prompt.text for prompt in spec.prompts.eval_prompts()]  # not drawn, but their words are checked
        generator.prepare(list(dict.fromkeys([*texts, *held_out])))
        drawn = torch.cat([returned.sample(generator, texts[p], seeds[p], base=True).images.cpu() for p in parts])
        view = torch.cat([evaluators.judge_view(drawn[p]) for p in parts])
        answers = tuple(_answers(evaluators, drawn, view, prompts, parts))
    return Audit(tuple(prompts), tuple(seeds), drawn, view, answers, tuple(notes))


def _answers(
    evaluators: Evaluators, images: Tensor, view: Tensor, prompts: Sequence[Prompt], parts: Sequence[slice]
) -> Iterator[Answered]:
    """The judge about all questions of the spec, in all wordings; then the referee about those of the evaluation."""
    spec, measured = evaluators.spec, evaluators.spec.measured_questions
    overlaid = spec.visual_prompt is not None
    asked = [
        ("judge", evaluators.judge, question.model_copy(update={"template": text}), overlaid, question in measured)
        for question in spec.questions
        for text in question.wordings
    ]
    if evaluators.referee is not None:
        asked += [("referee", evaluators.referee, question, overlaid, True) for question in measured]
        asked += [("referee", evaluators.referee, spec.preserve, False, False)] if spec.preserve else []
    for role, judge, question, under, of_task in asked:
        with speaking_as(role):
            seen, sayable = _p_wanted(judge, question, view if under else images, prompts, parts)
            plain = _p_wanted(judge, question, images, prompts, parts)[0] if under else None
        findings = _of_task(question, seen, plain) if of_task else _of_subject(seen)
        if sayable < SAYABLE:
            listed = " or ".join(question.candidates)
            findings = [f"it does not answer with {listed} (P = {sayable:.1g} for all of them together): ask otherwise"]
        yield Answered(role, question, tuple(seen), None if plain is None else tuple(plain), tuple(findings))


def _p_wanted(
    judge: Judge, question: QuestionSpec, images: Tensor, prompts: Sequence[Prompt], parts: Sequence[slice]
) -> tuple[list[float], float]:
    """P(wanted answer) for every image, and the highest P(any of the candidates)."""
    wanted: list[float] = []
    sayable = 0.0
    for part in parts:
        asked = [[question.for_prompt(prompt)] for prompt in prompts[part]]
        each = returned.answers(judge, images[part], asked).log_likelihoods[:, 0].exp()
        wanted += each[:, question.wanted].tolist()
        sayable = max(sayable, each.sum(1).max().item())
    return wanted, sayable


def _of_task(question: QuestionSpec, seen: Sequence[float], plain: Sequence[float] | None) -> list[str]:
    """What is wrong with a question that measures the task."""
    import torch

    odds, mean = _log_odds(seen), sum(seen) / len(seen)
    if mean >= ALREADY:
        answer = question.candidates[question.wanted]
        return [
            f"the answer is already {answer} for base images (P = {number(mean)}): there is little to train; ask for "
            "something that base images do not have"
        ]
    findings = []
    if len(seen) > 1 and float(torch.std(odds)) < ALIKE:
        findings.append(
            f"blind: it answers alike for every image (P = {number(min(seen))} to {number(max(seen))}), so it may not "
            "see what is asked; use other words, or a visual prompt"
        )
    if plain is not None and float((odds - _log_odds(plain)).abs().mean()) < SAME_VIEW:
        findings.append("it answers the same without the visual prompt: name the visual prompt in the question")
    return findings


def _of_subject(seen: Sequence[float]) -> list[str]:
    """What is wrong with a question that only guards the subject."""
    mean = sum(seen) / len(seen)
    if mean >= RECOGNISED:
        return []
    return [f"it does not recognise what base images show (P = {number(mean)}), so it cannot guard it"]


def _log_odds(probabilities: Sequence[float]) -> Tensor:
    import torch

    return torch.logit(torch.tensor(probabilities, dtype=torch.float64), eps=1e-9)
