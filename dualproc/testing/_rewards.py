"""The check for rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualproc.types import Answers

from ._conform import call, conform, described, differ, gradients, has_form

if TYPE_CHECKING:
    from torch import Tensor

CASES = (((0, 0), 2), ((1, 0), 2), ((2, 1), 3), ((0,), 2))
"""Each: the wanted answer of each question, and the number of candidates of all questions."""


def check_reward(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    cases: Sequence[tuple[Sequence[int], int]] = CASES,
    tolerance: float = 1e-5,
) -> None:
    """Check that a reward follows `dualproc.protocols.Reward`.

    Args:
        plugin: the class, or its name if it is installed.
        params: its parameters, as in a spec.
        cases: what it is tested with; each is the wanted answer of each question, and the number of candidates.
        tolerance: the largest allowed difference between two rewards of the same answers.

    Raises:
        ConformanceError: it does not; has one sentence for each problem.
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
    """Log-likelihoods as a judge returns them: below 0, with candidate probabilities that sum to less than 1."""
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
            yield f"the reward of log-likelihoods {of} is {described(value)}; expected float [3], one number per image"
            return
        same = _answers(3, len(wanted), candidates)
        if not same.log_likelihoods.equal(given.log_likelihoods):
            yield "the reward changes the log-likelihoods in place"
        again = call("the reward", reward, same, list(wanted))
        yield from differ("the reward is not reproducible for the same answers:", value, again, tolerance)


def _rises(reward: Any, wanted: Sequence[int], candidates: int) -> Iterator[str]:
    """The engine maximises the reward, so it must rise with the probability of the wanted answers."""
    import torch

    chosen = torch.nn.functional.one_hot(torch.tensor(wanted), candidates).bool()
    shares = (0.05, 0.5, 0.9)
    rows = [torch.where(chosen, share, (1 - share) / candidates).log() for share in shares]
    values = call("the reward", reward, _of(torch.stack(rows)), list(wanted)).tolist()
    if not values[0] < values[1] < values[2]:
        found = " and ".join(f"{value:.3g} at P = {share}" for value, share in zip(values, shares, strict=True))
        yield f"the reward does not rise with P(wanted answer), so training would not raise it: {found}"


def _gradient(reward: Any, wanted: Sequence[int], candidates: int) -> Iterator[str]:
    import torch

    scores = _answers(3, len(wanted), candidates).log_likelihoods
    with torch.no_grad():
        scores[2] = -100.0
        scores[2, :, 0] = 0.0  # a judge that is certain
    scores.requires_grad_()
    value = call("the reward", reward, _of(scores), list(wanted))
    if not value.isfinite().all():
        yield f"the reward is not finite if the judge is certain (log-likelihoods 0 and -100): {value.tolist()}"
        return
    if not value.requires_grad:
        yield "the reward is not differentiable with respect to the log-likelihoods; do not use detach or item"
        return
    slopes = torch.stack([gradients(one, scores)[0] for one in value])
    if not slopes.isfinite().all():
        yield "the gradient of the reward is not finite if the judge is certain (log-likelihoods 0 and -100)"
    elif not all(slopes[b, b].abs().sum() > 0 for b in range(2)):
        yield "the gradient of the reward is 0 if the judge is uncertain, so it cannot train a generator"
    elif any(slopes[b, other].abs().sum() > 0 for b in range(3) for other in range(3) if other != b):
        yield "the reward of one image depends on the answers about another image of the batch"


def _each_alone(reward: Any, wanted: Sequence[int], candidates: int, tolerance: float) -> Iterator[str]:
    given = _answers(3, len(wanted), candidates).log_likelihoods
    value = call("the reward", reward, _of(given), list(wanted))
    alone = call("the reward of a single image", reward, _of(given[:1]), list(wanted))
    yield from differ("an image gets different rewards alone and in a batch of 3:", value[:1], alone, tolerance)
