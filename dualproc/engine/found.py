"""Pictures of any origin, asked about and measured: nothing is generated, nothing is taught."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError
from dualproc.protocols import Judge
from dualproc.spec import QuestionSpec, TaskSpec
from dualproc.spec.mistakes import nearest
from dualproc.spec.template import fill_text, placeholders
from dualproc.types import Measurement, Prompt, Question, Score

from .evaluate import measure_pictures, share_on_target
from .instruments import Instruments

if TYPE_CHECKING:
    from torch import Tensor

Batches = Iterable["Tensor"]
"""Pictures [B, 3, H, W] in [0, 1]; each batch may have a size of its own."""


@dataclass(frozen=True)
class Reply:
    """What a judge says to one question about one picture."""

    words: str
    probabilities: tuple[float, ...]
    """P(candidate), of all that the judge could say; they need not add up to 1."""


def ask(
    judge: Judge, pictures: Batches, questions: Sequence[Question], *, tokens: int | None = None
) -> list[list[Reply]]:
    """The judge's replies, for every picture one to each question; at least one question.

    Its words are at most `tokens` long, by default as long as the longest candidate answer.
    """
    import torch

    replies: list[list[Reply]] = []
    with torch.no_grad():
        for images in pictures:
            count = len(images)
            answers = judge.answer_log_likelihoods(images, [list(questions)] * count)
            probabilities, longest = answers.log_likelihoods.exp().tolist(), int(answers.token_counts.max())
            words = [
                judge.generate(images, [question.text] * count, max_new_tokens=tokens or longest)
                for question in questions
            ]
            replies += [
                [Reply(said[b], tuple(probabilities[b][q])) for q, said in enumerate(words)] for b in range(count)
            ]
    return replies


def measure_found(
    instruments: Instruments, pictures: Batches, prompt: Prompt, advance: Callable[[int], None] = lambda _: None
) -> Measurement:
    """What scorers, judge and referee say of pictures, one number a picture, in order; at least one picture.

    Who drew them is not known, hence neither hack meter nor diversity (nan), and a scorer that compares with the base's
    pictures gives nan. `prompt` fills the questions' fields; `advance` is told of every picture measured.
    """
    import torch

    parts = []
    with torch.no_grad():
        for images in pictures:
            count = len(images)
            parts.append(measure_pictures(instruments, images, [prompt] * count, [0] * count))
            advance(count)
    return Measurement(
        scores=tuple(_joined_scores(scores) for scores in zip(*(part.scores for part in parts), strict=True)),
        judge=_joined(part.judge for part in parts) or (),
        referee=_joined(part.referee for part in parts),
        preserved=_joined(part.preserved for part in parts),
        hack_meter=float("nan"),
        diversity=float("nan"),
    )


def prompt_for(spec: TaskSpec, fields: Mapping[str, str]) -> Prompt:
    """The prompt of pictures of which only some of the spec's fields are known.

    Its text is the field `prompt`, or the spec's template filled in, or empty where that is not possible.

    Raises DualprocError if the spec's prompts have no such field.
    """
    known = sorted({*spec.prompts.fields, "prompt"})
    for name in fields:
        if name not in known:
            raise DualprocError(f"the prompts of {spec.name} have no field `{name}`", hint=nearest(name, known))
    template = spec.prompts.template
    whole = all(name in fields for name in placeholders(template))
    text = fields.get("prompt") or (fill_text(template, fields) if whole else "")
    return Prompt(text, {**fields, "prompt": text} if text else dict(fields))


def lacking(question: QuestionSpec, prompt: Prompt) -> list[str]:
    """The fields that a question uses and the prompt does not know."""
    return [name for name in placeholders(question.template) if name not in prompt.fields]


def _joined_scores(scores: Sequence[Score]) -> Score:
    """One scorer's verdicts on several batches as one."""
    values = tuple(value for score in scores for value in score.values)
    return replace(scores[0], values=values, on_target=share_on_target(values, scores[0].accepted))


def _joined(parts: Iterable[tuple[float, ...] | None]) -> tuple[float, ...] | None:
    """Numbers of several batches in a row; None if they were not measured."""
    joined: list[float] = []
    for part in parts:
        if part is None:
            return None
        joined += part
    return tuple(joined)
