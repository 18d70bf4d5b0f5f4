"""A judge asked about images of any origin: its answer in words, and the probability of each candidate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dualproc.errors import DualprocError
from dualproc.protocols import Judge
from dualproc.spec import QuestionSpec, TaskSpec
from dualproc.spec.template import fill_text, placeholders
from dualproc.types import Prompt, Question
from dualproc.wording import nearest

from . import returned

if TYPE_CHECKING:
    from torch import Tensor


SAYABLE = 0.01
"""Below this probability of all candidates together, a judge answers with other words."""


@dataclass(frozen=True)
class Reply:
    """A judge's answer to one question about one image."""

    words: str
    probabilities: tuple[float, ...]
    """P(candidate) over everything that the judge could say; they need not add up to 1."""


def ask(
    judge: Judge, batches: Iterable[Tensor], questions: Sequence[Question], *, tokens: int | None = None
) -> list[list[Reply]]:
    """The judge's replies: for every image, one to each question; at least one question.

    `batches` are images [B, 3, H, W] in [0, 1]; batches may differ in size. The answer in words is at most
    `tokens` long, by default as long as the longest candidate.
    """
    import torch

    replies: list[list[Reply]] = []
    with torch.no_grad():
        for images in batches:
            count = len(images)
            answers = returned.answers(judge, images, [list(questions)] * count)
            probabilities, longest = answers.log_likelihoods.exp().tolist(), int(answers.token_counts.max())
            words = [returned.words(judge, images, one.text, most=tokens or longest) for one in questions]
            replies += [
                [Reply(said[b], tuple(probabilities[b][q])) for q, said in enumerate(words)] for b in range(count)
            ]
    return replies


def prompt_for(spec: TaskSpec, fields: Mapping[str, str]) -> Prompt:
    """The prompt of images for which only some of the spec's fields are known.

    Its text is the field `prompt`, or the spec's template filled in, or empty if neither is possible.

    Raises DualprocError if the spec's prompts have no such field.
    """
    known = sorted({*spec.prompts.fields, "prompt"})
    for name in fields:
        if name not in known:
            raise DualprocError(f"the prompts of {spec.name} have no field `{name}`", hint=nearest(name, known))
    template = spec.prompts.template
    complete = all(name in fields for name in placeholders(template))
    text = fields.get("prompt") or (fill_text(template, fields) if complete else "")
    return Prompt(text, {**fields, "prompt": text} if text else dict(fields))


def missing_fields(question: QuestionSpec, prompt: Prompt) -> list[str]:
    """The fields that a question uses and the prompt does not have."""
    return [name for name in placeholders(question.template) if name not in prompt.fields]
