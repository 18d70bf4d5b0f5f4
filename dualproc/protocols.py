"""What a plugin is: one protocol per kind, found through the entry-point group of the same name.

Every plugin class has

* an `api_version`, equal to `API_VERSION`;
* a nested pydantic model `Params` that forbids extra keys and describes every parameter;
* a docstring, whose first line `dp plugins` shows;
* a constructor `Plugin(params)`, which keeps them as `self.params`.

No parameter is called `type`. For judges and anchors, none is called `weight`; for visual prompts, none is called
`hidden`: a spec uses these keys itself. A parameter called `path` names a file, relative to the spec. The plugin gets a
path that it can open, and raises a PluginError that names the file if it is missing; a run keeps a copy of the file.
Generators and judges may offer the parameters of `MemoryOptions`.

A *preset* is data instead of a class: another plugin's name, and parameters for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
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
    """A plugin under another name: the plugin `of` with `params` filled in. Values in a spec take precedence."""

    of: str
    summary: str
    params: Mapping[str, Any] = field(default_factory=dict)
    api_version: int = API_VERSION
    train: Mapping[str, Any] = field(default_factory=dict)
    """For a generator: published values of a spec's `train`, nested as there; used where a spec sets none."""
    train_source: str = ""
    """Where the values of `train` are published."""
    gated: bool = False
    """Whether the hub lets only people download the model who have accepted its terms and are logged in."""


@dataclass(frozen=True)
class MemoryOptions:
    """Parameters of generators and judges that decide where a model is stored and what memory it needs. All optional.

    A plugin that has a parameter of one of these names gives it the meaning below. `dp plan` reads them, and suggests
    changing those that save memory; `dp run` prints them once the models are loaded.
    """

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ...: where the model computes."""
    dtype: str | None = None
    """Precision of the frozen weights, such as `bfloat16`."""
    attention: str | None = None
    """The kernels that compute attention, such as `sdpa` or `flash`."""
    quantize: str | None = None
    """`8bit` or `4bit`: the frozen weights of linear layers are stored in fewer bits."""
    offload: bool = False
    """Frozen weights stay in main memory and are copied to the device while they are used."""
    checkpointing: bool = False
    """Activations are recomputed in the backward pass instead of being kept."""
    reward_vae: str | None = None
    """Generators: id or folder of a small VAE that decodes in training."""
    height: int | None = None
    """Generators: height of the images in pixels."""
    width: int | None = None
    """Generators: width of the images in pixels."""
    offered: frozenset[str] = frozenset()
    """The names that the plugin has a parameter for."""

    @classmethod
    def of(cls, params: Any) -> MemoryOptions:
        """The memory options of a plugin's `Params`; defaults for those that it does not have."""
        names = {one.name for one in fields(cls)} - {"offered"}
        offered = {name: getattr(params, name) for name in names if hasattr(params, name)}
        return cls(**offered, offered=frozenset(offered))


class Plugin(Protocol):
    """What all kinds have in common."""

    api_version: ClassVar[int]
    Params: ClassVar[type[BaseModel]]


@runtime_checkable
class Generator(Plugin, Protocol):
    """The image model that is trained."""

    @property
    def adapter_module(self) -> torch.nn.Module:
        """The module that receives the LoRA; its own weights are frozen."""

    @property
    def lora_targets(self) -> Sequence[str]:
        """Name endings of the linear layers that receive the LoRA; `*` stands for any one part of a name."""

    def prepare(self, prompts: Sequence[str]) -> None:
        """Called with all prompts before they are used: encode them once, and warn about unknown words."""

    def sample(self, prompts: Sequence[str], seeds: Sequence[int], *, grad: bool = False, base: bool = False) -> Sample:
        """Images of B prompts, from B seeds.

        The same prompt and seed give the same image, alone or in any batch. Seeds may exceed 2^32. The start
        noise of a negative seed ~s should be that of s times -1 (for `train.antithetic`). With `grad`, images
        and latents are differentiable with respect to the adapter module's trainable weights. With `base`, the LoRA is
        off. After the call, the LoRA is on and the gradient mode is as before.
        """

    def denoise(
        self, latents: Tensor, noise_level: float, prompts: Sequence[str], seeds: Sequence[int], *, base: bool = True
    ) -> Tensor:
        """Add noise to clean latents up to `noise_level` in (0, 1), then estimate the clean latents in one step.

        No gradient. With `base`, the LoRA is off.
        """

    def save_lora(self, folder: Path, layers: Mapping[str, Tensor]) -> None:
        """Write LoRA weights (PEFT names, scale folded in) to `folder/pytorch_lora_weights.safetensors`."""

    def recipe(self) -> Recipe:
        """How to draw the same images with the underlying pipeline: for the model card."""

    def pipeline(self) -> Any:
        """The underlying pipeline, for further use in Python."""


@runtime_checkable
class Judge(Plugin, Protocol):
    """The frozen vision-language model whose gradient trains the generator.

    Three things are optional. `reading: str`, an attribute or property, says in a few words how several questions about
    an image are read; `dp run` prints it. `check_questions(questions: Sequence[Question]) -> None` is called once with
    the questions about one image, when models are loaded: it raises PluginError if the judge cannot say a candidate, or
    takes two candidates for the same answer. A judge with this method also honours `Question.wordings`: P(candidate) is
    the sum over its wordings. Questions with several wordings are refused for other judges.
    `image_features(images: Tensor) -> Tensor` returns the features [B, N, D] of the images [B, 3, H, W], differentiable
    with respect to them; the anchor `base_features` needs it.
    """

    def answer_log_likelihoods(self, images: Tensor, questions: Sequence[Sequence[Question]]) -> Answers:
        """Score every candidate of `questions[b][q]` on `images[b]` ([B, 3, H, W] in [0, 1]).

        Differentiable with respect to the images and nothing else. All questions have the same number of candidates.
        Question q has the same candidates for every image; its text may differ.
        """

    def generate(self, images: Tensor, questions: Sequence[str], *, max_new_tokens: int = 32) -> list[str]:
        """Answer one question per image in words."""


@runtime_checkable
class Reward(Plugin, Protocol):
    """Turns a judge's answer scores into one number per image; the engine maximises its mean.

    Optional: `least_candidates: ClassVar[int]`, the number of candidate answers that it needs; 1 without it. A question
    with fewer is a mistake in the spec.
    """

    def __call__(self, answers: Answers, wanted: Sequence[int]) -> Tensor:
        """[B] rewards, differentiable with respect to `answers.log_likelihoods`.

        `wanted[q]` is the index of the wanted candidate. The reward rises with the probability of the wanted answers,
        and is finite for log-likelihoods from -100 to 0.
        """


@runtime_checkable
class VisualPrompt(Plugin, Protocol):
    """One layer of the image instruction that is laid over the image before the judge sees it."""

    def draw(self, canvas: Image) -> None:
        """Draw onto an RGBA canvas, in place, over what other layers drew. Deterministic.

        Coordinates and widths are fractions of the canvas size.
        """


@runtime_checkable
class Anchor(Plugin, Protocol):
    """Keeps the generator near its base, whatever the task.

    Optional: an attribute `judge: Judge | None`, None at first. The engine sets it to the spec's judge.
    """

    def penalty(
        self, sample: Sample, generator: Generator, prompts: Sequence[str], seeds: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """[B] penalties >= 0, each differentiable with respect to its own image. `rng` is the only source of noise."""


@runtime_checkable
class Scorer(Plugin, Protocol):
    """An independent measurement of finished images; never part of the loss.

    Two things are optional. `accepted: tuple[float, float] | None`, an attribute or property with two finite numbers:
    values from the first to the second, both included, count as *on target*, and the report gives their share. A
    parameter `target`, None or the best value: the report shows it beside the values. With `better = "target"`, at
    least one of them is present.
    """

    unit: ClassVar[str]
    better: ClassVar[Literal["higher", "lower", "target"]]

    def score(self, images: Tensor, context: ScoreContext) -> Tensor:
        """[B] measurements of `images` [B, 3, H, W] in [0, 1], of any size; nan where nothing can be measured.

        An image has the same value alone and in any batch. `context.base_images` may be None.
        """


__all__ = [
    "API_VERSION", "KINDS", "Anchor", "Answers", "Generator", "Judge", "MemoryOptions", "Plugin", "Preset", "Prompt",
    "Question", "Recipe", "Reward", "Sample", "ScoreContext", "Scorer", "VisualPrompt",
]  # fmt: skip
