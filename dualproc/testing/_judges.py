"""The check for judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dualproc.types import Answers, Question
from dualproc.wording import listed

from ._conform import Finding, apart, call, conform, described, differ, gradients, has_form, require_several, touched
from ._probes import changed, checksums, not_frozen, scenes, weights_of

QUESTIONS = ("Is this a drawing of a cat? Answer with Yes or No.", "Is the sky blue? Answer with Yes or No.")
CANDIDATES = ("Yes", "No")
SIZES = ((64, 64), (48, 80))

Asked = list[list[Question]]


def check_judge(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    questions: Sequence[str] = QUESTIONS,
    candidates: Sequence[str] = CANDIDATES,
    sizes: Sequence[tuple[int, int]] = SIZES,
    tolerance: float = 1e-3,
) -> None:
    """Check that a judge follows `dualproc.protocols.Judge`; `dualproc.testing` describes what all checks share.

    Args:
        questions: two or more questions that it can answer.
        candidates: answers to both, none of which is the beginning of another.
        sizes: height and width of the images, which are simple scenes.
        tolerance: the largest allowed difference between two log-likelihoods of the same answer.

    Raises DualprocError if there are too few questions, candidates or sizes.
    """
    require_several("questions", questions, 2)
    require_several("candidates", candidates, 2)
    require_several("sizes", sizes, 1)

    def checks(judge: Any) -> Iterator[Iterator[str]]:
        weights = weights_of(judge)
        before = checksums(weights)
        for number, size in enumerate(sizes):
            check = _Check(judge, scenes(2, *size), questions, tuple(candidates), tolerance)
            if number == 0:
                yield check.form()
                yield check.order()
                yield check.words()
            yield check.gradient()
            yield check.each_alone()
        yield not_frozen("judge", weights)
        yield changed("judge", weights, before)

    conform("judges", plugin, params, checks)


@dataclass(frozen=True)
class _Check:
    """What a judge is asked: two questions about each of two images, in reverse order about the second image."""

    judge: Any
    images: Tensor
    texts: Sequence[str]
    candidates: tuple[str, ...]
    tolerance: float

    @property
    def asked(self) -> Asked:
        """A row of two questions for each image, the second question with its candidates in reverse order."""
        first, second = self.texts[:2]
        rows = [(first, second) if b % 2 == 0 else (second, first) for b in range(len(self.images))]
        return [[Question(one, self.candidates), Question(two, self.candidates[::-1])] for one, two in rows]

    def answers(self, images: Tensor, asked: Asked) -> Answers:
        """The judge's answers, with log-likelihoods of the expected type and shape. Raises Finding for any other."""
        name = f"answer_log_likelihoods of images {list(images.shape)}"
        answers = call(name, self.judge.answer_log_likelihoods, images, asked)
        if not isinstance(answers, Answers):
            raise Finding(f"answer_log_likelihoods returns {described(answers)}; expected dualproc.types.Answers")
        shape = [len(asked), len(asked[0]), len(asked[0][0].candidates)]
        if not has_form(answers.log_likelihoods, shape):
            raise Finding(
                f"log_likelihoods are {described(answers.log_likelihoods)} for {shape[0]} images, {shape[1]} questions"
                f" and {shape[2]} candidates; expected float {shape}"
            )
        return answers

    def scores(self, images: Tensor, asked: Asked) -> Tensor:
        return self.answers(images, asked).log_likelihoods

    def form(self) -> Iterator[str]:
        given = self.images.clone()
        for count in (2, 1):  # also a single question, which must keep its dimension
            answers = self.answers(given, [row[:count] for row in self.asked])
            counts = answers.token_counts
            shape = [count, len(self.candidates)]
            if not isinstance(counts, Tensor) or counts.is_floating_point() or list(counts.shape) != shape:
                yield f"token_counts are {described(counts)}; expected integers {shape}"
            elif not (counts >= 1).all():
                yield f"token_counts are {counts.tolist()}; expected at least 1 for every candidate"
            yield from self.are_log_probabilities(answers.log_likelihoods)
        if apart(self.images, given):
            yield "answer_log_likelihoods changes its images in place"
        first, again = (self.scores(self.images.clone(), self.asked).detach() for _ in range(2))
        what = "answer_log_likelihoods is not reproducible for the same questions:"
        yield from differ(what, first, again, self.tolerance)

    def are_log_probabilities(self, scores: Tensor) -> Iterator[str]:
        if not scores.isfinite().all():
            yield f"log_likelihoods are not finite: {_rounded(scores)}"
        elif scores.max() > 1e-4:
            yield f"log_likelihoods are up to {scores.max().item():.3g}; expected at most 0, the log of a probability"
        elif (total := scores.exp().sum(-1).max().item()) > 1.001:
            yield (
                f"the probabilities of {', '.join(self.candidates)} sum to {total:.3g}; expected at most 1, because"
                " P(candidate | image, question) is a share of all possible answers"
            )

    def order(self) -> Iterator[str]:
        """The scores follow the order of the candidates, and depend on the question."""
        image, (first, second) = self.images[:1], self.texts[:2]
        scores = self.scores(image, [[Question(first, self.candidates)]])
        turned = self.scores(image, [[Question(first, self.candidates[::-1])]]).flip(-1)
        yield from differ("the scores of candidates depend on their order:", scores, turned, self.tolerance)
        if not apart(scores, self.scores(image, [[Question(second, self.candidates)]])):
            yield f"two questions have exactly the same scores, {_rounded(scores)}: the judge ignores the text"

    def words(self) -> Iterator[str]:
        given, count = self.images.clone(), len(self.images)
        said = call("generate", self.judge.generate, given, list(self.texts[:2]), max_new_tokens=4)
        if not (isinstance(said, list) and len(said) == count and all(isinstance(text, str) for text in said)):
            yield f"generate returns {described(said)} for {count} images; expected a list of {count} texts"
        if apart(given, self.images):
            yield "generate changes its images in place"

    def gradient(self) -> Iterator[str]:
        """The gradient of each image's scores reaches its own pixels, and nothing else."""
        size, images = list(self.images.shape), self.images.clone().requires_grad_()
        scores = self.scores(images, self.asked)
        if not scores.requires_grad:
            yield "log_likelihoods are not differentiable with respect to the images, so they cannot train a generator"
            return
        for b, row in enumerate(scores):
            slope = gradients(row[..., 0].sum(), images)[0]
            if not slope[b].any():
                yield f"no gradient of log_likelihoods reaches the pixels of images {size}"
                break
            if not slope.isfinite().all():
                yield f"the gradient of log_likelihoods with respect to images {size} is not finite"
                break
            others = [other for other in range(len(slope)) if other != b]
            if slope[others].abs().max() > self.tolerance * slope[b].abs().max():
                yield "the scores of one image depend on the pixels of another image of the batch"
                break
        if names := touched(scores.sum(), weights_of(self.judge)):
            yield f"a gradient reaches the judge's weights ({listed(names)}); freeze them with requires_grad_(False)"

    @torch.no_grad()
    def each_alone(self) -> Iterator[str]:
        together = self.scores(self.images, self.asked)
        for b, row in enumerate(self.asked):
            image = self.images[b : b + 1]
            alone = self.scores(image, [row])
            what = f"image {b} has different scores alone and in a batch of {len(self.images)}:"
            yield from differ(what, together[b : b + 1], alone, self.tolerance)
            single = torch.cat([self.scores(image, [[question]]) for question in row], dim=1)
            what = "questions have different scores when asked one by one and together:"
            yield from differ(what, alone, single, self.tolerance)


def _rounded(values: Tensor) -> str:
    return str([round(value, 3) for value in values.flatten().tolist()[:8]])
