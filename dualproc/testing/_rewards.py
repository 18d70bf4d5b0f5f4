"""The check of rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualproc.types import Answers

from ._conform import call, conform, described, differ, gradients, has_form

if TYPE_CHECKING:
    from torch import Tensor

CASES = (((0, 0), 2), ((1, 0), 2), ((2, 1), 3), ((0,), 2))
"""The wanted answers of each question, and how many candidates all have."""


def check_reward(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    cases: Sequence[tuple[Sequence[int], int]] = CASES,
    tolerance: float = 1e-5,
) -> None:
    """Does a reward keep to `dualproc.protocols.Reward`?

    Args:
        plugin: the class, or the name under which it is installed.
        params: its parameters, as a spec gives them.
        cases: what it is tried on: the wanted answer of each question, and how many candidates there are.
        tolerance: how far apart two rewards of the same answers may be.

    Raises:
        ConformanceError: it does not; with a sentence for each thing that is wrong.
        PluginError: no plugin of that name can be loaded.
    """

    def checks(reward: Any) -> Iterator[Iterator[str]]:
        yield _form(reward, cases, tolerance)
        for wanted, candidates in cases:
            yield _rises(reward, wanted, candidates)
            yield _gradient(reward, wanted, candidates)
            yield _each_alone(reward, wanted, candidates, tolerance)

    conform("rewards", plugin, params, checks)


def _answers(images: int, questions: int, candidates: int) -> Answers:
    """Log-likelihoods as a judge gives them: below 0, the candidates' probabilities adding up to less than 1."""
    import torch

    rng = torch.Generator().manual_seed(images)
    scores = torch.randn(images, questions, candidates + 1, generator=rng).log_softmax(-1)[..., :-1]
    return _of(scores.contiguous())


def _of(scores: Tensor) -> Answers:
    import torch

    return Answers(scores, torch.ones(scores.shape[1:], dtype=torch.long))


def _form(reward: Any, cases: Sequence[tuple[Sequence[int], int]], tolerance: float) -> Iterator[str]:
    for wanted, candidates in cases:
        given = _answers(3, len(wanted), candidates)
        value = call("the reward", reward, given, list(wanted))
        if not has_form(value, [3]):
            of = described(given.log_likelihoods)
            yield f"the reward of log-likelihoods {of} is {described(value)}; wanted is float [3], one number per image"
            return
        same = _answers(3, len(wanted), candidates)
        if not same.log_likelihoods.equal(given.log_likelihoods):
            yield "the reward changes the log-likelihoods that it is given"
        again = call("the reward", reward, same, list(wanted))
        yield from differ("the same answers, rewarded again, get other rewards:", value, again, tolerance)


def _rises(reward: Any, wanted: Sequence[int], candidates: int) -> Iterator[str]:
    """The engine maximises the reward: the likelier the wanted answers, the higher it has to be."""
    import torch

    chosen = torch.nn.functional.one_hot(torch.tensor(wanted), candidates).bool()
    shares = (0.05, 0.5, 0.9)
    rows = [torch.where(chosen, share, (1 - share) / candidates).log() for share in shares]
    values = call("the reward", reward, _of(torch.stack(rows)), list(wanted)).tolist()
    if not values[0] < values[1] < values[2]:
        told = " and ".join(f"{value:.3g} at P = {share}" for value, share in zip(values, shares, strict=True))
        yield f"the reward does not rise with P(wanted answer), which the engine would lower then: {told}"


def _gradient(reward: Any, wanted: Sequence[int], candidates: int) -> Iterator[str]:
    import torch

    scores = _answers(3, len(wanted), candidates).log_likelihoods
    with torch.no_grad():
        scores[2] = -100.0
        scores[2, :, 0] = 0.0  # a judge that is sure
    scores.requires_grad_()
    value = call("the reward", reward, _of(scores), list(wanted))
    if not value.isfinite().all():
        yield f"the reward is not finite where the judge is sure (log-likelihoods 0 and -100): {value.tolist()}"
        return
    if not value.requires_grad:
        yield "the reward is not differentiable in the log-likelihoods; use tensor operations, without detach or item"
        return
    slopes = torch.stack([gradients(one, scores)[0] for one in value])
    if not slopes.isfinite().all():
        yield "the gradient in the log-likelihoods is not finite where the judge is sure (log-likelihoods 0 and -100)"
    elif not all(slopes[b, b].abs().sum() > 0 for b in range(2)):
        yield "the gradient in the log-likelihoods is 0 for a judge that is not sure: nothing would be trained"
    elif any(slopes[b, other].abs().sum() > 0 for b in range(3) for other in range(3) if other != b):
        yield "the reward of one image has a gradient in the answers about another"


def _each_alone(reward: Any, wanted: Sequence[int], candidates: int, tolerance: float) -> Iterator[str]:
    given = _answers(3, len(wanted), candidates).log_likelihoods
    value = call("the reward", reward, _of(given), list(wanted))
    alone = call("the reward of a single image", reward, _of(given[:1]), list(wanted))
    yield from differ("an image gets another reward alone than in a batch of 3:", value[:1], alone, tolerance)
