"""The check for rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dualproc.types import Answers

from ._conform import call, conform, described, differ, gradients, one_per_image, require_several

Case = tuple[Sequence[int], int]
"""The wanted answer of each question, and the number of candidates of all questions."""
CASES: Sequence[Case] = (((0, 0), 2), ((1, 0), 2), ((2, 1), 3), ((0,), 2))


def check_reward(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    cases: Sequence[Case] = CASES,
    tolerance: float = 1e-5,
) -> None:
    """Check that a reward follows `dualproc.protocols.Reward`; `dualproc.testing` describes what all checks share.

    Args:
        cases: what it is tested with; each is the wanted answer of each question, and the number of candidates.
        tolerance: the largest allowed difference between two rewards of the same answers.

    Raises DualprocError if there is no case.
    """
    require_several("cases", cases, 1)

    def checks(reward: Any) -> Iterator[Iterator[str]]:
        yield _form(reward, cases, tolerance)
        for case in cases:
            yield _rises(reward, *case)
            yield _gradient(reward, *case)
            yield _each_alone(reward, *case, tolerance)

    conform("rewards", plugin, params, checks)


def _scores(wanted: Sequence[int], candidates: int) -> Tensor:
    """[3, Q, K] log-likelihoods as a judge returns them: the candidates' probabilities sum to less than 1."""
    rng = torch.Generator().manual_seed(3)
    return torch.randn(3, len(wanted), candidates + 1, generator=rng).log_softmax(-1)[..., :-1].contiguous()


def _rewarded(reward: Any, scores: Tensor, wanted: Sequence[int], name: str = "the reward") -> Tensor:
    value = call(name, reward, Answers(scores, torch.ones(scores.shape[1:], dtype=torch.long)), list(wanted))
    return one_per_image(value, len(scores), f"{name} of log-likelihoods {described(scores)} is")


def _form(reward: Any, cases: Sequence[Case], tolerance: float) -> Iterator[str]:
    for wanted, candidates in cases:
        scores, same = _scores(wanted, candidates), _scores(wanted, candidates)
        value = _rewarded(reward, scores, wanted)
        if not same.equal(scores):
            yield "the reward changes the log-likelihoods in place"
        again = _rewarded(reward, same, wanted)
        yield from differ("the reward is not reproducible for the same answers:", value, again, tolerance)


def _rises(reward: Any, wanted: Sequence[int], candidates: int) -> Iterator[str]:
    """The engine maximises the reward, so it must rise with the probability of the wanted answers."""
    chosen = torch.nn.functional.one_hot(torch.tensor(wanted), candidates).bool()
    shares = (0.05, 0.5, 0.9)
    rows = [torch.where(chosen, share, (1 - share) / candidates).log() for share in shares]
    values = _rewarded(reward, torch.stack(rows), wanted).tolist()
    if not values[0] < values[1] < values[2]:
        found = " and ".join(f"{value:.3g} at P = {share}" for value, share in zip(values, shares, strict=True))
        yield f"the reward does not rise with P(wanted answer), so training would not raise it: {found}"


def _gradient(reward: Any, wanted: Sequence[int], candidates: int) -> Iterator[str]:
    scores = _scores(wanted, candidates)
    scores[2] = -100.0
    scores[2, :, 0] = 0.0  # a judge that is certain
    scores.requires_grad_()
    value = _rewarded(reward, scores, wanted)
    if not value.isfinite().all():
        yield f"the reward is not finite if the judge is certain (log-likelihoods 0 and -100): {value.tolist()}"
        return
    if not value.requires_grad:
        yield "the reward is not differentiable with respect to the log-likelihoods; do not use detach or item"
        return
    slopes = torch.stack([gradients(one, scores)[0] for one in value])
    if not slopes.isfinite().all():
        yield "the gradient of the reward is not finite if the judge is certain (log-likelihoods 0 and -100)"
    elif not all(slopes[b, b].any() for b in range(2)):
        yield "the gradient of the reward is 0 if the judge is uncertain, so it cannot train a generator"
    elif any(slopes[b, other].any() for b in range(3) for other in range(3) if other != b):
        yield "the reward of one image depends on the answers about another image of the batch"


def _each_alone(reward: Any, wanted: Sequence[int], candidates: int, tolerance: float) -> Iterator[str]:
    scores = _scores(wanted, candidates)
    value = _rewarded(reward, scores, wanted)
    alone = _rewarded(reward, scores[:1], wanted, "the reward of a single image")
    yield from differ("an image gets different rewards alone and in a batch of 3:", value[:1], alone, tolerance)
