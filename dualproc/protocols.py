"""What a plugin is: one protocol a kind, found through the entry-point groups of the same names.

Every plugin class has an `api_version` (equal to `API_VERSION`), a nested pydantic model `Params` that forbids extra
keys and describes its parameters, a docstring whose first line `dp plugins` shows, and is built as `Plugin(params)`.
It keeps them as `params`. No parameter is called `type` nor, for judges and anchors, `weight`: these keys are the
spec's. A parameter called `path` names a file, which a spec names relative to itself: the plugin gets a path that it
can open, raises a PluginError that names it if there is no such file, and a run keeps a copy of it. A *preset* is data
instead of a class: another plugin's name and parameters for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

from .types import Answers, Prompt, Question, Recipe, Sample, ScoreContext

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from PIL.Image import Image
    from pydantic import BaseModel
    from torch import Tensor

API_VERSION = 1

KINDS = ("generators", "judges", "rewards", "visual_prompts", "anchors", "scorers")
"""The kinds of plugins; the entry-point group of each is `dualproc.<kind>`."""


@dataclass(frozen=True)
class Preset:
    """A plugin by another name: `of` with `params` filled in; what a spec sets wins over them."""

    of: str
    summary: str
    params: Mapping[str, Any] = field(default_factory=dict)
    api_version: int = API_VERSION


class Plugin(Protocol):
    """What all kinds have in common."""

    api_version: ClassVar[int]
    Params: ClassVar[type[BaseModel]]


@runtime_checkable
class Generator(Plugin, Protocol):
    """The image model that learns."""

    @property
    def adapter_module(self) -> torch.nn.Module:
        """The module that receives the LoRA; its own weights are frozen."""

    @property
    def lora_targets(self) -> Sequence[str]:
        """Name endings of the adapter module's linear layers that the LoRA goes to; `*` is any one part of a name."""

    def prepare(self, prompts: Sequence[str]) -> None:
        """Told all prompts before they are used: the place to encode them once, and to warn of those it cannot draw."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        """Pictures of B prompts from B seeds. The same prompt and seed give the same picture.

        Whatever stands beside it in the batch. Seeds go beyond 2^32. After the call the LoRA is on again
        and gradients are as before.

        With `grad`, pictures and latents are differentiable in the adapter module's trainable weights. With `base`,
        the LoRA is off.
        """

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = True
    ) -> Tensor:
        """Re-noise clean latents to `noise_level` in (0, 1), then estimate the clean latents again in one step.

        Without gradient; with `base`, by the weights without the LoRA.
        """

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        """Write LoRA weights (PEFT names, scale folded in) to `folder/pytorch_lora_weights.safetensors`."""

    def recipe(self) -> Recipe:
        """How to draw the same with the underlying pipeline: for the model card."""

    def pipeline(self) -> Any:
        """The underlying pipeline, for people who want to go on with it."""


@runtime_checkable
class Judge(Plugin, Protocol):
    """The frozen vision-language model whose gradient teaches."""

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Score every candidate of `questions[b][q]` on `images[b]` ([B, 3, H, W] in [0, 1]).

        Differentiable in the images and in nothing else. All questions have the same number of candidates; question q
        has the same candidates for every picture (its text may differ).
        """

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Answer one question a picture in words."""


@runtime_checkable
class Reward(Plugin, Protocol):
    """Turns a judge's answer scores into one number a picture; the engine maximises its mean."""

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        """[B] rewards, differentiable in `answers.log_likelihoods`; `wanted[q]` indexes the candidates.

        The likelier the wanted answers, the higher; finite for log-likelihoods from -100 to 0.
        """


@runtime_checkable
class VisualPrompt(Plugin, Protocol):
    """One layer of the image instruction laid over the picture before the judge sees it."""

    def draw(self, canvas: Image) -> None:
        """Draw onto an RGBA canvas, in place, over what other layers drew; the same each time.

        Coordinates and widths are fractions of its size.
        """


@runtime_checkable
class Anchor(Plugin, Protocol):
    """What keeps the generator near its base, whatever the task."""

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties >= 0, each differentiable in its own picture of the sample; all randomness is from `rng`."""


@runtime_checkable
class Scorer(Plugin, Protocol):
    """An independent measurement of finished pictures; never part of the loss.

    Two things are optional. An attribute or property `accepted: tuple[float, float] | None`, two finite numbers: values
    from the first to the second, both included, count as *on target*, and their share is reported. A `target` among the
    `Params`, None or the one value that is wanted most: it is drawn and named beside the values. With `better =
    "target"` there is at least one of them.
    """

    unit: ClassVar[str]
    better: ClassVar[Literal["higher", "lower", "target"]]

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] measurements of `images` [B, 3, H, W] in [0, 1] of any size; nan where there is nothing to measure.

        The same for a picture alone as in a batch. The context's `base_images` may be missing.
        """


__all__ = [
    "API_VERSION", "KINDS", "Anchor", "Answers", "Generator", "Judge", "Plugin", "Preset", "Prompt", "Question",
    "Recipe", "Reward", "Sample", "ScoreContext", "Scorer", "VisualPrompt",
]  # fmt: skip
