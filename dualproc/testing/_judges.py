"""The check for judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualproc.types import Answers, Question
from dualproc.wording import listed

from ._conform import Finding, apart, backward, call, conform, described, differ, gradients, has_form
from ._probes import changed, checksums, networks, not_frozen, scenes, weights_of

if TYPE_CHECKING:
    from torch import Tensor

QUESTIONS = ("Is this a drawing of a cat? Answer with Yes or No.", "Is the sky blue? Answer with Yes or No.")
CANDIDATES = ("Yes", "No")
SIZES = ((64, 64), (48, 80))


@dataclass(frozen=True)
class _Probe:
    """What a judge is asked: two questions about each image, in reverse order for every second image."""

    texts: Sequence[str]
    candidates: tuple[str, ...]
    tolerance: float

    def asked(self, count: int) -> list[list[Question]]:
        """`count` rows of two questions, the second with its candidates in reverse order."""
        first, second = self.texts[:2]
        rows = [(first, second) if b % 2 == 0 else (second, first) for b in range(count)]
        return [[Question(one, self.candidates), Question(two, self.candidates[::-1])] for one, two in rows]


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
    """Check that a judge follows `dualproc.protocols.Judge`.

    Args:
        plugin: the class, or its name if it is installed.
        params: its parameters, as in a spec.
        questions: two questions that it can answer.
        candidates: answers to both, none of which is the beginning of another.
        sizes: height and width of the images, which are simple scenes.
        tolerance: the largest allowed difference between two log-likelihoods of the same answer.

    Raises:
        ConformanceError: it does not; has one sentence for each problem.
        PluginError: no plugin of that name can be loaded.
    """
    probe = _Probe(questions, tuple(candidates), tolerance)

    def checks(judge: Any) -> Iterator[Iterator[str]]:
        weights = weights_of(list(networks(judge)))
        before = checksums(weights)
        for number, size in enumerate(sizes):
            images = scenes(2, *size)
            if number == 0:
                yield _form(judge, images, probe)
                yield _order(judge, images, probe)
                yield _words(judge, images, probe)
            yield _gradient(judge, images, probe)
            yield _each_alone(judge, images, probe)
        yield _frozen(weights, before)

    conform("judges", plugin, params, checks)


def _answers(judge: Any, images: Tensor, asked: list[list[Question]]) -> Answers:
    """A judge's answers, with log-likelihoods of the expected type and shape. Raises Finding for any other."""
    name = f"answer_log_likelihoods of images {list(images.shape)}"
    answers = call(name, judge.answer_log_likelihoods, images, asked)
    if not isinstance(answers, Answers):
        raise Finding(f"answer_log_likelihoods returns {described(answers)}; expected dualproc.types.Answers")
    shape = [len(asked), len(asked[0]), len(asked[0][0].candidates)]
    if not has_form(answers.log_likelihoods, shape):
        raise Finding(
            f"log_likelihoods are {described(answers.log_likelihoods)} for {shape[0]} images, {shape[1]} questions"
            f" and {shape[2]} candidates; expected float {shape}"
        )
    return answers


def _scores(judge: Any, images: Tensor, asked: list[list[Question]]) -> Tensor:
    return _answers(judge, images, asked).log_likelihoods


def _form(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    import torch

    asked, given = probe.asked(len(images)), images.clone()
    for count in (len(asked[0]), 1):  # also a single question, which must keep its dimension
        some = [row[:count] for row in asked]
        answers = _answers(judge, given, some)
        counts = answers.token_counts
        shape = [count, len(probe.candidates)]
        if not isinstance(counts, torch.Tensor) or counts.is_floating_point() or list(counts.shape) != shape:
            yield f"token_counts are {described(counts)}; expected integers {shape}"
        elif not (counts >= 1).all():
            yield f"token_counts are {counts.tolist()}; expected at least 1 for every candidate"
        yield from _are_log_probabilities(answers.log_likelihoods, probe.candidates)
    if apart(images, given):
        yield "answer_log_likelihoods changes its images in place"
    first, again = (_scores(judge, images.clone(), asked).detach() for _ in range(2))
    yield from differ(
        "answer_log_likelihoods is not reproducible for the same questions:", first, again, probe.tolerance
    )


def _are_log_probabilities(scores: Tensor, candidates: Sequence[str]) -> Iterator[str]:
    if not scores.isfinite().all():
        yield f"log_likelihoods are not finite: {_rounded(scores)}"
    elif scores.max() > 1e-4:
        yield f"log_likelihoods are up to {scores.max().item():.3g}; expected at most 0, the log of a probability"
    elif (total := scores.exp().sum(-1).max().item()) > 1.001:
        yield (
            f"the probabilities of {', '.join(candidates)} sum to {total:.3g}; expected at most 1, because"
            " P(candidate | image, question) is a share of all possible answers"
        )


def _rounded(values: Tensor) -> str:
    return str([round(value, 3) for value in values.flatten().tolist()[:8]])


def _order(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    """The scores follow the order of the candidates, and depend on the question."""
    first, second = probe.texts[:2]
    forth, back = ([[Question(first, order)]] for order in (probe.candidates, probe.candidates[::-1]))
    scores = _scores(judge, images[:1], forth)
    turned = _scores(judge, images[:1], back).flip(-1)
    yield from differ("the scores of candidates depend on their order:", scores, turned, probe.tolerance)
    other = _scores(judge, images[:1], [[Question(second, probe.candidates)]])
    if not apart(scores, other):
        yield f"two questions have exactly the same scores, {_rounded(scores)}: the judge ignores the text"


def _gradient(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    """The gradient of each image's scores reaches its own pixels, and nothing else."""
    size, images = list(images.shape), images.clone().requires_grad_()
    scores = _scores(judge, images, probe.asked(len(images)))
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
        if slope[others].abs().max() > probe.tolerance * slope[b].abs().max():
            yield "the scores of one image depend on the pixels of another image of the batch"
            break
    backward(scores.sum())
    touched = [n for n, weight in weights_of(list(networks(judge))).items() if weight.grad is not None]
    if touched:
        yield f"a gradient reaches the judge's weights ({listed(touched)}); freeze them with requires_grad_(False)"


def _each_alone(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    import torch

    asked = probe.asked(len(images))
    with torch.no_grad():
        together = _scores(judge, images, asked)
        for b, row in enumerate(asked):
            alone = _scores(judge, images[b : b + 1], [row])
            what = f"image {b} has different scores alone and in a batch of {len(images)}:"
            yield from differ(what, together[b : b + 1], alone, probe.tolerance)
            single = torch.cat([_scores(judge, images[b : b + 1], [[question]]) for question in row], dim=1)
            what = "questions have different scores when asked one by one and together:"
            yield from differ(what, alone, single, probe.tolerance)


def _words(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    copy = images.clone()
    said = call("generate", judge.generate, images, list(probe.texts[:2]), max_new_tokens=4)
    if not (isinstance(said, list) and len(said) == len(images) and all(isinstance(text, str) for text in said)):
        yield f"generate returns {described(said)} for {len(images)} images; expected a list of {len(images)} texts"
    if apart(images, copy):
        yield "generate changes its images in place"


def _frozen(weights: Mapping[str, Any], before: Mapping[str, int]) -> Iterator[str]:
    yield from not_frozen("judge", weights)
    if other := changed(weights, before):
        yield f"frozen weights of the judge have changed during the check ({listed(other)})"
