"""The values that pass between generator, judge, reward, anchor and scorers, and what a run records.

Shape letters: B images, Q questions, K candidate answers, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from torch import Tensor


class _NullIsNan:
    """Lets pydantic read null as nan. Imported on use: `dp --help` must not load pydantic."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        read = core_schema.no_info_before_validator_function
        return read(lambda value: math.nan if value is None else value, handler(source))


Number = Annotated[float, _NullIsNan()]
"""A number that may be nan, for "not measured"; JSON has no nan, so files hold null instead."""


@dataclass(frozen=True)
class Prompt:
    """The text that the generator gets, and the fields that questions about its image may use."""

    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """One question about one image, complete with its suffix, and the candidate answers that are compared."""

    text: str
    candidates: tuple[str, ...] = ("Yes", "No")
    wanted: int = 0
    """Index of the wanted answer among the candidates."""
    synonyms: tuple[str, ...] = ()
    """Further wordings of the wanted answer: their probabilities are added to its own."""

    @property
    def wordings(self) -> tuple[tuple[str, ...], ...]:
        """Every candidate with its further wordings."""
        return tuple(
            (text, *self.synonyms) if index == self.wanted else (text,) for index, text in enumerate(self.candidates)
        )


@dataclass(frozen=True)
class Recipe:
    """How to draw with a generator's underlying pipeline exactly as the generator does."""

    model: str
    """Hub id, or a folder."""
    dtype: str
    """Precision of the weights: `float32`, `bfloat16` or `float16`."""
    call: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's call, besides the prompt."""
    scheduler: str | None = None
    """Name of the diffusers scheduler class; None for the model's own."""
    peft_module: str | None = None
    """The pipeline component that PEFT loads the LoRA into; None if the pipeline has its own LoRA loader."""
    license: str | None = None
    """The model's licence as the hub names it, such as `apache-2.0`; None if unknown."""
    comfyui: str | None = None
    """The file of `save_lora` whose key names ComfyUI knows; None if that has not been checked."""
    library: str = "diffusers"
    """The package that the pipeline comes from. For other packages, the model card says to use `dp generate`."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Further arguments of `from_pretrained` that select the files: `revision`, `variant`."""


@dataclass(frozen=True)
class Sample:
    """Images, and the clean latents they were decoded from."""

    images: Tensor
    """[B, 3, H, W], float, in [0, 1]."""
    latents: Tensor
    """[B, ...], float, in the generator's own layout: its `denoise` takes them."""


@dataclass(frozen=True)
class Answers:
    """How probable a judge finds each candidate answer."""

    log_likelihoods: Tensor
    """[B, Q, K]: natural log of P(candidate k | image b, question q), summed over the candidate's tokens."""
    token_counts: Tensor
    """[Q, K]: the number of tokens of each candidate."""

    def p_wanted(self, wanted: Sequence[int]) -> Tensor:
        """[B], no gradient: P(wanted answer) over the whole vocabulary, mean over the questions.

        `wanted[q]` is the index of the wanted answer to question q.
        """
        return self.log_likelihoods.detach()[:, range(len(wanted)), list(wanted)].exp().mean(1)


@dataclass(frozen=True)
class StepRecord:
    """Everything that is logged about one training step."""

    step: int
    """Training steps done, counted from 1."""
    loss: Number
    reward: Number
    """Mean reward over the batch."""
    p_answer: Number
    """The judge's P(wanted answer), mean over the batch."""
    anchor: Number
    """The anchors' part of the loss: weight * penalty, summed over the anchors, mean over the batch; 0 without any."""
    grad_norm: Number
    seconds: float
    skipped: bool = False
    """True if loss or gradient was not finite: the weights were not changed."""
    referee: Number | None = None
    """The referee's P(wanted answer), mean over training prompts with other seeds; None at unmonitored steps."""
    hack_meter: Number | None = None
    """Squared distance between latents and what the base model denoises them to; None at unmonitored steps."""


@dataclass(frozen=True)
class ScoreContext:
    """What a scorer may know about the images besides their pixels."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    base_images: Tensor | None = None
    """[B, 3, H, W]: images of the same prompts and seeds without the LoRA, where there are any."""


@dataclass(frozen=True)
class Score:
    """One scorer's measurement of a set of images."""

    name: str
    unit: str
    better: str
    """`higher`, `lower` or `target`."""
    values: tuple[Number, ...]
    """One per image; nan where nothing could be measured."""
    target: float | None = None
    """The best value, where there is one."""
    accepted: tuple[float, float] | None = None
    """Values from the first to the second, both included, are on target; None if the scorer has no such range."""
    on_target: float | None = None
    """Share of the images whose value is accepted; images without a value count as missed.

    None without `accepted`, and if no image has a value: then nothing is known about the share.
    """


@dataclass(frozen=True)
class CalibrationPoint:
    """The images for which a slider had one value."""

    asked: float
    """The slider's value."""
    measured: Number
    """Mean of the scorer's values."""
    spread: Number
    """Their standard deviation."""
    error: Number
    """Mean distance of the scorer's values to the slider's."""
    on_target: float | None
    """Share of the images whose value is accepted; None as in `Score`."""
    kept: Number
    """Share of the images whose subject the referee recognises; nan without a `preserve` question."""
    diversity: Number
    """As in `Measurement`; nan if no prompt has two images at this value."""


@dataclass(frozen=True)
class Calibration:
    """A slider's values against those that a scorer measures in the images."""

    slider: str
    scorer: str
    unit: str
    """The scorer's unit, which is that of `error`, `spread` and the points."""
    error: Number
    """Mean over the images of |measured - asked|; images without a value are left out."""
    spread: Number
    """Standard deviation of |measured - asked|."""
    spearman: Number
    """Rank correlation of asked and measured values."""
    points: tuple[CalibrationPoint, ...]
    """By rising values of the slider."""
    effects: Mapping[str, Number] = field(default_factory=dict)
    """By how much each slider of the spec, from end to end, moves this measurement (least squares)."""


@dataclass(frozen=True)
class Measurement:
    """Everything measured on one set of held-out images."""

    scores: tuple[Score, ...]
    judge: tuple[Number, ...]
    """The judge's P(wanted answer), one per image (mean over the questions)."""
    referee: tuple[Number, ...] | None
    """The referee's P(wanted answer)."""
    preserved: tuple[Number, ...] | None
    """The referee's P(wanted answer) to the spec's `preserve` question."""
    hack_meter: Number
    diversity: Number
    """How much the layout of images of one prompt differs between seeds: the mean of 1 - correlation of their blurred
    edge maps. 0 for identical images, about 1 for unrelated layouts. Nearly blind to colour. With sliders, only images
    at the same values are compared."""
    calibration: tuple[Calibration, ...] = ()
    """One for each slider that is a scorer's target."""
    color_diversity: Number = math.nan
    """How much the colours of images of one prompt differ between seeds: the mean distance of the blurred images in
    CIELAB. 0 for identical images."""
    side_effects: tuple[Score, ...] = ()
    """What the task does not ask for, by the spec's `evaluation.side_effects`."""
    alike_diversity: Number = math.nan
    """Of base images: the diversity of those pairs whose scores are as alike as those of the trained images, in all the
    spec's scorers. The trained images' diversity as a share of it does not fall merely because the task is a place."""


@dataclass(frozen=True)
class Evaluation:
    """The base generator and the trained one on the same held-out prompts and seeds."""

    prompts: tuple[Prompt, ...]
    """One per image."""
    seeds: tuple[int, ...]
    base: Measurement
    trained: Measurement
    asked: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """For each slider, its value for every image; empty without sliders."""
