"""The values that pass between generator, judge, reward, anchor and scorers.

Shape letters: B pictures, Q questions, K candidate answers, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """What the generator is told, and the fields that questions about its picture may use."""

    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """One question about one picture, complete with its suffix, and the answers that are compared."""

    text: str
    candidates: tuple[str, ...] = ("Yes", "No")
    wanted: int = 0
    """Index of the wanted answer among the candidates."""


@dataclass(frozen=True)
class Recipe:
    """How to draw with a generator's underlying pipeline as the generator itself does."""

    model: str
    """Hub id, or a folder."""
    dtype: str
    """Precision of the weights: `float32`, `bfloat16` or `float16`."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's call, besides the prompt."""
    scheduler: str | None = None
    """Name of the diffusers class that samples; None for the model's own."""
    peft_module: str | None = None
    """The pipeline's part that PEFT loads the LoRA for; None where the pipeline has a loader of its own."""
    library: str = "diffusers"
    """The package whose pipeline it is. For another than diffusers the model card tells to draw with `dp generate`."""


@dataclass(frozen=True)
class Sample:
    """Pictures and the clean latents they were decoded from."""

    images: Tensor
    """[B, 3, H, W], float, in [0, 1]."""
    latents: Tensor
    """[B, ...], float: the generator's own layout, as its `denoise` takes it."""


@dataclass(frozen=True)
class Answers:
    """How likely a judge finds each candidate answer."""

    log_likelihoods: Tensor
    """[B, Q, K]: natural log of P(candidate k | picture b, question q), summed over the candidate's tokens."""
    token_counts: Tensor
    """[Q, K]: how many tokens each candidate has."""


@dataclass(frozen=True)
class StepRecord:
    """What one step of the engine did; everything that is logged."""

    step: int
    """Steps done, counted from 1."""
    loss: float
    reward: float
    """Mean reward over the batch."""
    p_answer: float
    """The judge's mean P(wanted answer)."""
    anchor: float
    """The anchors' part of the loss: weight * penalty, summed over the anchors, mean over the batch; 0 without any."""
    grad_norm: float
    seconds: float
    skipped: bool = False
    """True if loss or gradient was not finite and the weights were left as they were."""
    referee: float | None = None
    """The referee's mean P(wanted answer) on training prompts with other seeds, at the steps where it was asked."""
    hack_meter: float | None = None
    """Squared distance to what the base makes of the re-noised picture, at the steps where it was measured."""


@dataclass(frozen=True)
class ScoreContext:
    """What a scorer may know about the pictures besides their pixels."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    base_images: Tensor | None = None
    """[B, 3, H, W]: pictures of the same prompts and seeds without the LoRA, where there are any."""


@dataclass(frozen=True)
class Score:
    """One scorer's verdict on a set of pictures."""

    name: str
    unit: str
    better: str
    """`higher`, `lower` or `target`."""
    values: tuple[float, ...]
    """One a picture; nan where nothing could be measured."""
    target: float | None = None
    """The value that is wanted most, where there is one."""
    accepted: tuple[float, float] | None = None
    """Values from the first to the second, both included, are on target; None if the scorer accepts no range."""
    on_target: float | None = None
    """Share of the pictures whose value is accepted (those without a value are missed); None without `accepted`."""


@dataclass(frozen=True)
class Measurement:
    """Everything measured on one set of held-out pictures."""

    scores: tuple[Score, ...]
    judge: tuple[float, ...]
    """The judge's P(wanted answer), one a picture (mean over the questions)."""
    referee: tuple[float, ...] | None
    """The referee's P(wanted answer)."""
    preserved: tuple[float, ...] | None
    """The referee's P(wanted answer) to the spec's `preserve` question."""
    hack_meter: float
    diversity: float
    """How much the structure of pictures of one prompt and different seeds differs: mean of 1 - correlation of their
    blurred maps of edges, 0 for identical pictures, about 1 for unrelated layouts. Nearly blind to colour."""


@dataclass(frozen=True)
class Evaluation:
    """Base and taught generator on the same held-out prompts and seeds."""

    prompts: tuple[Prompt, ...]
    """One a picture."""
    seeds: tuple[int, ...]
    base: Measurement
    taught: Measurement
