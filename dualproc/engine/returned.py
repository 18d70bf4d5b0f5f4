"""What plugins return, checked where the engine uses it: a wrong shape would otherwise fail far from its plugin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dualproc.protocols import Anchor, Generator, Judge, Reward, Scorer
from dualproc.types import Answers, Question, Sample, ScoreContext
from dualproc.wording import printable

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class WrongResult(Exception):  # noqa: N818 (not an error of this code)
    """A plugin returned what its protocol does not allow; the text begins with `returned`.

    Every function here has the plugin as its first argument, by which `failures` names it.
    """


def sample(
    generator: Generator, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False
) -> Sample:
    """`generator.sample`, with images [B, 3, H, W] and latents [B, ...]."""
    made = generator.sample(prompts, seeds, grad=grad, base=base)
    _require(generator, "images", getattr(made, "images", None), len(seeds), 3, None, None)
    _require(generator, "latents", getattr(made, "latents", None), len(seeds), ...)
    return made


def denoised(
    generator: Generator, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int]
) -> Tensor:
    """`generator.denoise` by the base, of the shape of `latents`."""
    again = generator.denoise(latents, noise_level, prompts, seeds, base=True)
    return _require(generator, "denoised latents", again, *latents.shape)


def answers(judge: Judge, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
    """`judge.answer_log_likelihoods`, with log-likelihoods [B, Q, K] and token counts [Q, K]."""
    found = judge.answer_log_likelihoods(images, questions)
    asked = len(questions[0]), max(len(one.candidates) for one in questions[0])
    _require(judge, "log-likelihoods", getattr(found, "log_likelihoods", None), len(images), *asked)
    _require(judge, "token counts", getattr(found, "token_counts", None), *asked)
    return found


def words(judge: Judge, images: Tensor, question: str, *, most: int) -> list[str]:
    """`judge.generate`: the `printable` answer to one question about each image, at most `most` tokens long."""
    said = judge.generate(images, [question] * len(images), max_new_tokens=most)
    if not isinstance(said, Sequence) or len(said) != len(images) or not all(isinstance(one, str) for one in said):
        raise WrongResult(f"returned {said!r:.100} as its words, expected {len(images)} strings")
    return list(map(printable, said))


def reward(plugin: Reward, found: Answers, wanted: Sequence[int]) -> Tensor:
    """What a reward makes of answers: [B]."""
    return _require(plugin, "rewards", plugin(found, wanted), len(found.log_likelihoods))


def penalty(
    anchor: Anchor,
    made: Sample,
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    rng: torch.Generator,
) -> Tensor:
    """`anchor.penalty`: [B]."""
    return _require(anchor, "penalties", anchor.penalty(made, generator, prompts, seeds, rng), len(seeds))


def values(scorer: Scorer, images: Tensor, context: ScoreContext) -> tuple[float, ...]:
    """`scorer.score`: one number per image."""
    return tuple(_require(scorer, "values", scorer.score(images, context), len(images)).tolist())


def _require(_plugin: object, what: str, value: Any, *shape: Any) -> Tensor:
    """`value`, if it is a tensor of this shape; None is any length, `...` at the end any further ones."""
    if not hasattr(value, "shape"):
        raise WrongResult(f"returned {what} of the type {type(value).__name__}, expected a tensor")
    given, wanted = list(value.shape), [length for length in shape if length is not ...]
    known = given[: len(wanted)] if ... in shape else given
    if len(known) != len(wanted) or any(b not in (None, a) for a, b in zip(known, wanted, strict=True)):
        expected = ", ".join("..." if length is ... else "any" if length is None else str(length) for length in shape)
        raise WrongResult(f"returned {what} of the shape {given}, expected [{expected}]")
    tensor: Tensor = value
    return tensor
