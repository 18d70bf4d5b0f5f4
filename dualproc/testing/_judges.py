"""The check of judges."""

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
    """What a judge is asked: two questions about each image, in the other order about every second one."""

    texts: Sequence[str]
    candidates: tuple[str, ...]
    tolerance: float

    def asked(self, count: int) -> list[list[Question]]:
        """`count` rows of two questions, the second one with its candidates the other way round."""
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
    """Does a judge keep to `dualproc.protocols.Judge`?

    Args:
        plugin: the class, or the name under which it is installed.
        params: its parameters, as a spec gives them.
        questions: two that it can be asked.
        candidates: different answers to them, of which none begins with another.
        sizes: height and width of the images, simple scenes, that it is shown.
        tolerance: how far apart two log-likelihoods of the same may be.

    Raises:
        ConformanceError: it does not; with a sentence for each thing that is wrong.
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
    """A judge's answers, their log-likelihoods of the right form."""
    name = f"answer_log_likelihoods of images {list(images.shape)}"
    answers = call(name, judge.answer_log_likelihoods, images, asked)
    if not isinstance(answers, Answers):
        raise Finding(f"answer_log_likelihoods gives {described(answers)}; wanted is dualproc.types.Answers")
    shape = [len(asked), len(asked[0]), len(asked[0][0].candidates)]
    if not has_form(answers.log_likelihoods, shape):
        raise Finding(
            f"log_likelihoods are {described(answers.log_likelihoods)} for {shape[0]} images, {shape[1]} questions"
            f" and {shape[2]} candidates; wanted is float {shape}"
        )
    return answers


def _scores(judge: Any, images: Tensor, asked: list[list[Question]]) -> Tensor:
    return _answers(judge, images, asked).log_likelihoods


def _form(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    import torch

    asked, given = probe.asked(len(images)), images.clone()
    for count in (len(asked[0]), 1):  # one question, too: no dimension may be lost
        some = [row[:count] for row in asked]
        answers = _answers(judge, given, some)
        counts = answers.token_counts
        shape = [count, len(probe.candidates)]
        if not isinstance(counts, torch.Tensor) or counts.is_floating_point() or list(counts.shape) != shape:
            yield f"token_counts are {described(counts)}; wanted are whole numbers {shape}"
        elif not (counts >= 1).all():
            yield f"token_counts are {counts.tolist()}; every candidate has at least one token"
        yield from _are_log_probabilities(answers.log_likelihoods, probe.candidates)
    if apart(images, given):
        yield "answer_log_likelihoods changes the images that it is given"
    first, again = (_scores(judge, images.clone(), asked).detach() for _ in range(2))
    yield from differ("the same questions, asked again, have other scores:", first, again, probe.tolerance)


def _are_log_probabilities(scores: Tensor, candidates: Sequence[str]) -> Iterator[str]:
    if not scores.isfinite().all():
        yield f"log_likelihoods are not finite: {_rounded(scores)}"
    elif scores.max() > 1e-4:
        yield f"log_likelihoods are up to {scores.max().item():.3g}; the log of a probability is at most 0"
    elif (total := scores.exp().sum(-1).max().item()) > 1.001:
        yield (
            f"the probabilities of {', '.join(candidates)} add up to {total:.3g}; P(candidate | image, question) is a"
            " share of all that could be said, so that they are at most 1 together"
        )


def _rounded(values: Tensor) -> str:
    return str([round(value, 3) for value in values.flatten().tolist()[:8]])


def _order(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    """The candidates stand in the order in which they were given, and the answer depends on the question."""
    first, second = probe.texts[:2]
    forth, back = ([[Question(first, order)]] for order in (probe.candidates, probe.candidates[::-1]))
    scores = _scores(judge, images[:1], forth)
    turned = _scores(judge, images[:1], back).flip(-1)
    yield from differ("with the candidates in another order they have other scores:", scores, turned, probe.tolerance)
    other = _scores(judge, images[:1], [[Question(second, probe.candidates)]])
    if not apart(scores, other):
        yield f"two questions have exactly the same scores, {_rounded(scores)}: the text is not read"


def _gradient(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    """Of each image's scores in its own pixels, and in nothing else."""
    size, images = list(images.shape), images.clone().requires_grad_()
    scores = _scores(judge, images, probe.asked(len(images)))
    if not scores.requires_grad:
        yield "log_likelihoods are not differentiable in the images: the generator would be trained nothing"
        return
    for b, row in enumerate(scores):
        slope = gradients(row[..., 0].sum(), images)[0]
        if not slope[b].any():
            yield f"no gradient of log_likelihoods reaches the pixels of images {size}"
            break
        if not slope.isfinite().all():
            yield f"the gradient of log_likelihoods in images {size} is not finite"
            break
        others = [other for other in range(len(slope)) if other != b]
        if slope[others].abs().max() > probe.tolerance * slope[b].abs().max():
            yield "the scores of one image have a gradient in the pixels of another"
            break
    backward(scores.sum())
    touched = [n for n, weight in weights_of(list(networks(judge))).items() if weight.grad is not None]
    if touched:
        yield f"a gradient reaches the judge's own weights ({listed(touched)}); it is frozen: requires_grad_(False)"


def _each_alone(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    import torch

    asked = probe.asked(len(images))
    with torch.no_grad():
        together = _scores(judge, images, asked)
        for b, row in enumerate(asked):
            alone = _scores(judge, images[b : b + 1], [row])
            what = f"image {b} has other scores alone than in a batch of {len(images)}:"
            yield from differ(what, together[b : b + 1], alone, probe.tolerance)
            apiece = torch.cat([_scores(judge, images[b : b + 1], [[question]]) for question in row], dim=1)
            what = "questions asked one by one have other scores than asked together:"
            yield from differ(what, alone, apiece, probe.tolerance)


def _words(judge: Any, images: Tensor, probe: _Probe) -> Iterator[str]:
    copy = images.clone()
    said = call("generate", judge.generate, images, list(probe.texts[:2]), max_new_tokens=4)
    if not (isinstance(said, list) and len(said) == len(images) and all(isinstance(text, str) for text in said)):
        yield f"generate gives {described(said)} for {len(images)} images; wanted is a list of {len(images)} texts"
    if apart(images, copy):
        yield "generate changes the images that it is given"


def _frozen(weights: Mapping[str, Any], before: Mapping[str, int]) -> Iterator[str]:
    yield from not_frozen("judge", weights)
    if other := changed(weights, before):
        yield f"weights of the judge have changed while it was asked ({listed(other)})"
