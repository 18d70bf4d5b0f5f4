"""TaskSpec, the model of a spec. The field descriptions are the source of docs/spec.md and of the JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler  # pydantic itself has it only later
from pydantic_core import to_jsonable_python
from typing_extensions import Self

from dualproc.errors import SpecError
from dualproc.wording import nearest

from . import refs
from .crosschecks import cross_problems, unfilled, wordings
from .document import KeyPath, Scalar, from_data
from .fields import RUN_FOLDERS, Count, Name, NotNegative, Positive, Share, Shift, SpecModel, Text, Word
from .messages import for_report, problems_from
from .mistakes import MAX_PROBLEMS, Mistake, plain_data, raise_mistakes, show
from .prompts import Prompts, QuestionSpec, variant_names
from .sliders import Slider, complete, corners, filled
from .template import find_placeholders

MAX_VARIANTS = 100
MAX_SLIDERS = 8
PREVIEWED = 4
"""Training prompts that previews show by default."""


class Jitter(SpecModel):
    """Random shift of the visual prompt in training: [lowest, highest], drawn for every image of every step."""

    x: tuple[Shift, Shift] = Field(
        default=(0.0, 0.0), description="Range of the shift to the right, as shares of the image's width."
    )
    y: tuple[Shift, Shift] = Field(
        default=(0.0, 0.0), description="Range of the shift downwards, as shares of the image's height."
    )

    @field_validator("x", "y")
    @classmethod
    def _check_order(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if bounds[0] > bounds[1]:
            raise_mistakes([Mistake((), "the lower bound is above the upper bound", "write [lowest, highest]")], bounds)
        return bounds


class VisualPromptSpec(SpecModel):
    """The image instruction laid over the image before the judge sees it."""

    blend: Literal["solid", "alpha"] = Field(
        default="solid",
        description="`solid`: the layers cover the image. `alpha`: the image shows through the layers, see `opacity`.",
    )
    opacity: Share = Field(
        default=0.5, description="Opacity of the layers with `blend: alpha`: 0 is invisible, 1 covers the image."
    )
    jitter: Jitter = Field(
        default=Jitter(), description="Random shift of the whole visual prompt in training; none by default."
    )
    layers: tuple[refs.VisualLayerRef, ...] = Field(
        min_length=1,
        max_length=refs.MAX_LISTED,
        description="Plugins that draw the visual prompt, from bottom to top; 1 to 100. One with `hidden: true` is "
        "left out.",
    )


class Lora(SpecModel):
    """The LoRA that is trained. Its effective scale is strength * alpha / rank."""

    rank: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(
        default=16, description="Rank of the LoRA; its number of trained weights is proportional to it."
    )
    alpha: Positive = Field(default=8.0, description="PEFT's `lora_alpha`: scales the LoRA by alpha / rank.")
    strength: Positive = Field(
        default=5.0, description="Additional factor of the LoRA in training. The saved weights include the whole scale."
    )
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Name endings of the layers that receive the LoRA, such as `attn.to_q`; `*` stands for one part of "
        "a name. Default: the layers that the generator suggests.",
    )
    init: Text | None = Field(
        default=None,
        description="Start from this LoRA: a run's folder, or a `.safetensors` file in diffusers' format, with layers "
        "that are all trained here, and at most this rank. Relative to the spec; in `--set`, to the current folder. "
        "Default: a LoRA that changes nothing.",
    )


class Watch(SpecModel):
    """Monitoring during training: checks with the hack meter and, if the spec has one, with the referee."""

    every: Count = Field(default=20, description="Training steps from one check to the next.")
    images: Count = Field(
        default=16,
        validation_alias=AliasChoices("images", "pictures"),  # `pictures` was its name until 0.1.0
        description="Images per check: training prompts, with seeds that training does not use.",
    )


class Preview(SpecModel):
    """Previews during training: base and trained images of a few prompts, written into the run."""

    every: Count = Field(default=20, description="Training steps from one preview to the next.")
    prompts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=16)] | None = Field(
        default=None,
        description="Prompts of the previews, 1 to 16, complete and without placeholders. Held-out prompts are "
        "refused. Default: the first 4 training prompts.",
    )


class Stop(SpecModel):
    """Early stopping by the referee. The saved LoRA is the one of its best check, even if all steps are done."""

    patience: Count = Field(
        default=2, description="The training ends after this many checks in a row without an improvement."
    )
    min_delta: NotNegative = Field(
        default=0.005,
        description="Smallest rise of the referee's mean P(wanted answer) above its best check so far that counts as "
        "an improvement.",
    )


class Views(SpecModel):
    """How often the judge sees each training image; the reward is the mean over these views."""

    count: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=1,
        description="Views of each image in each training step, each with its own jitter, wording and noise. The "
        "judge's part of the step takes this many times the time and memory.",
    )
    noise: Share = Field(
        default=0.0,
        description="Standard deviation of Gaussian noise that is added to the pixels (0 to 1) of each view, beneath "
        "the visual prompt.",
    )


class WorstCase(SpecModel):
    """The gradient at the worst place nearby instead of here, so that no narrow peak of the reward is climbed."""

    images: Share = Field(
        default=0.0,
        description="Move each image's pixels by this much (root mean square, pixels from 0 to 1) to a lower reward. "
        "The judge's part of the step takes twice as long.",
    )
    weights: NotNegative = Field(
        default=0.0,
        description="Move the LoRA's weights by this much (length of the change) to a higher loss. The step takes "
        "twice as long.",
    )


Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]


class Train(SpecModel):
    """How the LoRA is trained: optimiser, LoRA, monitoring, early stopping and checkpoints."""

    steps: Count = Field(default=100, description="Number of training steps (optimiser steps).")
    batch: Count = Field(
        default=4, description="Images per training step, each with a random training prompt and a random seed."
    )
    accumulate: Count = Field(
        default=1,
        description="Parts of the batch that are computed one after another, by each process: the gradient of the "
        "whole batch with less memory.",
    )
    lr: Annotated[Positive, Field(le=1)] = Field(default=1e-4, description="Learning rate of AdamW.")
    lr_decay: Share = Field(
        default=0.0, description="The last share of the steps, in which the learning rate falls linearly to 0."
    )
    lr_warmup: Annotated[int, Field(strict=True, ge=0, le=1_000_000)] = Field(
        default=0, description="Number of first steps in which the learning rate rises linearly."
    )
    weight_decay: Share = Field(default=0.0, description="Weight decay of AdamW.")
    clip: Positive = Field(default=1.0, description="Maximum norm of the gradient; a longer gradient is scaled down.")
    ema: Annotated[float, Field(strict=True, ge=0, lt=1)] = Field(
        default=0.0,
        description="Decay of an exponential moving average of the LoRA's weights, such as 0.98. Then it is this "
        "average that is checked, saved and evaluated. 0: none.",
    )
    stratified: bool = Field(
        default=False,
        description="Draw training prompts like cards: none comes again before all others have. Otherwise each is "
        "drawn from all.",
    )
    antithetic: bool = Field(
        default=False,
        description="Draw start noise in pairs: of every two images of a batch, one starts from the other one's noise "
        "times -1. A batch of 1 has no pairs.",
    )
    views: Views = Field(default=Views(), description="How often the judge sees each training image.")
    worst_case: WorstCase = Field(
        default=WorstCase(), description="Where near the images and the LoRA the gradient is taken."
    )
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = Field(
        default=0,
        description="Seed of every random draw in training. The seeds of held-out images are the same in every run.",
    )
    lora: Lora = Field(default=Lora(), description="Size, scale and layers of the LoRA.")
    watch: Watch = Field(default=Watch(), description="Monitoring during training.")
    preview: Preview | None = Field(
        default=None,
        description="Images of base and trained generator every few steps, in the run's `samples/preview`; none by "
        "default. They do not change the LoRA.",
    )
    stop: Stop | None = Field(default=None, description="Early stopping by the referee; none by default.")
    checkpoint_every: Count = Field(
        default=25,
        description="Training steps from one checkpoint to the next; `--resume` continues from the last one.",
    )
    trackers: Annotated[tuple[Tracker, ...], Field(max_length=4)] = Field(
        default=(),
        description="Also log to these: `tensorboard` (in the run folder), `wandb`, `trackio`, `mlflow`. None by "
        "default.",
    )
    max_skipped: Count = Field(
        default=5,
        description="The run ends with an error after this many skipped steps in a row. A step is skipped if its loss "
        "or gradient is not finite.",
    )

    def lr_at(self, step: int) -> float:
        """The learning rate of a training step, counted from 0."""
        falling = self.lr_decay * self.steps
        rising = (step + 1) / self.lr_warmup if self.lr_warmup else 1.0
        return self.lr * min(1.0, rising, (self.steps - step) / falling if falling else 1.0)


class EvaluationSpec(SpecModel):
    """The evaluation on held-out prompts: number of images, and batch size."""

    seeds: Count = Field(default=11, description="Images per held-out prompt, each with a different seed.")
    batch: Count = Field(
        default=16,
        description="Images generated and judged at a time, in the evaluation and in checks; fewer need less memory.",
    )
    side_effects: tuple[refs.ScorerRef, ...] = Field(
        default=tuple(
            refs.PluginRef.model_validate({"type": "tone", "of": of}) for of in ("lightness", "chroma", "contrast")
        ),
        max_length=refs.MAX_LISTED,
        description="Scorers of what the task does not ask for. The evaluation reports by how much the LoRA changes "
        "their values. Scorers of the spec itself are left out.",
    )


Questions = Annotated[tuple[QuestionSpec, ...], Field(min_length=1, max_length=100)]


def _check_variant_value(value: Any) -> Any:
    value = plain_data(value)
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (list, dict)) for item in items):
        raise_mistakes([Mistake((), f"expected a single value or a list of values, found {show(value)}")], value)
    return value


VariantValue = Annotated[
    Any,
    BeforeValidator(_check_variant_value),
    WithJsonSchema({"type": ["string", "number", "boolean", "null", "array"]}),
]


class TaskSpec(SpecModel):
    """A task: prompts, questions and their wanted answers, the models, and how the LoRA is trained and evaluated."""

    schema_version: Literal[1] = Field(default=1, description="Version of the spec format.")
    name: Name = Field(description="Name of the task, of letters, digits, `_` and `-`; part of the run folder's name.")
    sliders: Annotated[dict[Word, Slider], Field(max_length=MAX_SLIDERS)] = Field(
        default={},
        description="Placeholders whose value is chosen after training, each with its range. Every training step draws "
        "a value and fills it in where a variant's value may stand, except in `prompts.template` and in numbers of the "
        "spec itself, such as `opacity`. See use_a_lora.md.",
    )
    description: str = Field(
        default="", max_length=2000, description="What the task trains, in one or two sentences; shown in reports."
    )
    prompts: Prompts = Field(description="The generator's prompts for training and evaluation.")
    question: refs.OneOrMore[QuestionSpec, Questions] = Field(
        description="What the judge is asked about each image: one question, or a list of 1 to 100."
    )
    preserve: QuestionSpec | None = Field(
        default=None,
        description="Question about what must stay true of the images, for example whether the subject is still "
        "recognisable. The referee answers it in the evaluation only. None by default.",
    )
    reward: refs.RewardRef = Field(
        default=refs.PluginRef(type="yes_no_gap"),
        description="Turns the judge's answer scores into one number per image, which the training maximises.",
    )
    visual_prompt: VisualPromptSpec | None = Field(
        default=None, description="Image instruction laid over each image before the judge sees it; none by default."
    )
    variants: Annotated[dict[Name, dict[Word, VariantValue]], Field(max_length=MAX_VARIANTS)] = Field(
        default={},
        description="Named sets of values. Each value fills the `{placeholder}` of its name in `description`, "
        "`prompts.template`, `question`, `preserve`, `reward`, `visual_prompt`, `scorers` and `anchor`.",
    )
    variant: Name | None = Field(
        default=None,
        validate_default=True,
        description="The chosen variant; required if there are variants. Set it with `--variant`.",
    )
    generator: refs.GeneratorRef = Field(
        default=refs.PluginRef(type="tiny"), description="The image model that is trained."
    )
    judge: refs.OneOrMoreJudges = Field(
        default=refs.PluginRef(type="tiny"),
        description="The frozen vision-language model whose gradient trains the generator: one judge, or a list of 1 "
        "to 10 that answer as one.",
    )
    referee: refs.OneOrMoreJudges | None = Field(
        default=None,
        description="A second judge that is never differentiated, best of another model family. It monitors training "
        "and may end it early. One, or a list as in `judge`; none by default.",
    )
    scorers: tuple[refs.ScorerRef, ...] = Field(
        default=(),
        max_length=refs.MAX_LISTED,
        description="Independent measurements of finished images, never part of the loss; none by default.",
    )
    anchor: refs.OneOrMoreAnchors | None = Field(
        default=None,
        description="Keeps the generator near its base: one anchor, or a list of 1 to 10; none by default.",
    )
    train: Train = Field(default=Train(), description="How the LoRA is trained.")
    evaluation: EvaluationSpec = Field(
        default=EvaluationSpec(), description="How base and trained generator are evaluated on held-out prompts."
    )

    @property
    def label(self) -> str:
        """The display name: `line_weight/thin`, or only the name if no variant is chosen."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def questions(self) -> tuple[QuestionSpec, ...]:
        """The questions as a tuple, even if there is only one."""
        return (self.question,) if isinstance(self.question, QuestionSpec) else self.question

    @property
    def measured_questions(self) -> tuple[QuestionSpec, ...]:
        """The questions that measure the task: all except the `preserve` question, unless it is the only one."""
        others = tuple(q for q in self.questions if self.preserve is None or q.template != self.preserve.template)
        return others or self.questions

    @property
    def judges(self) -> tuple[tuple[float, refs.PluginRef], ...]:
        """The judges with their weights, as a tuple even if there is only one."""
        return refs.weighted(self.judge)

    @property
    def referees(self) -> tuple[tuple[float, refs.PluginRef], ...]:
        """The referees with their weights, as a tuple even if there is one or none."""
        return refs.weighted(self.referee)

    @property
    def anchors(self) -> tuple[refs.AnchorRef, ...]:
        """The anchors, as a tuple even if there is one or none."""
        return self.anchor if isinstance(self.anchor, tuple) else (self.anchor,) if self.anchor else ()

    def plugins(self) -> tuple[refs.PluginPlace, ...]:
        """Every plugin that the spec names, with its place; with sliders, once for each end of their ranges."""
        ends = [self.at(values) for values in corners(self.sliders)] if self.sliders else [self]
        return tuple(place for one in ends for place in refs.plugin_places(one.model_dump()))

    def at(self, values: Mapping[str, float]) -> TaskSpec:
        """The spec with its sliders at these values, filled in; sliders that are not named are in the middle.

        Raises DualprocError if a value is outside its slider's range or names no slider, and SpecError if the spec is
        not valid with it.
        """
        chosen = complete(self.sliders, values)
        if not chosen:
            return self
        try:
            return filled(self, chosen)
        except ValidationError as error:
            raise SpecError(problems_from(error, TaskSpec, from_data(self))) from error

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Raise SpecError instead of pydantic's error, unless the spec is being loaded from a document."""
        try:
            return handler(data)
        except ValidationError as error:
            if info.context is not None:
                raise
            document = from_data(data)
            problems = [*problems_from(error, TaskSpec, document), *cross_problems(document)]
            raise SpecError(for_report(problems)) from None

    # A check across keys is a validator of the later key: `info.data` has the earlier keys that are valid. Each key has
    # its own validator, so a mistake in one key does not hide the mistakes in others.

    @field_validator("schema_version", mode="before")
    @classmethod
    def _check_version(cls, value: Any) -> Any:
        if isinstance(value, bool):  # True == 1 in Python
            raise_mistakes([Mistake((), f"expected 1, found {show(value)}")], value)
        return value

    @field_validator("prompts")
    @classmethod
    def _check_fields(cls, prompts: Prompts, info: ValidationInfo) -> Prompts:
        taken = sorted({"prompt", *prompts.fields} & _slider_names(info))
        hint = "choose another name for the slider"
        raise_mistakes([Mistake((), f"`{name}` is also a slider", hint) for name in taken], prompts)
        return prompts

    @model_validator(mode="after")
    def _check_sliders(self) -> Self:
        asked = self.model_dump(include={"question", "reward", "visual_prompt", "anchor"}) if self.sliders else {}
        used = {name for _, name in find_placeholders(asked)}
        hint = "write {{{}}} in `visual_prompt`, `question` or `reward`"
        unused = [name for name in self.sliders if name not in used]
        message = "the slider's value is used nowhere in training"
        raise_mistakes([Mistake(("sliders", name), message, hint.format(name)) for name in unused], self)
        return self

    @field_validator("description", "reward", "visual_prompt", "scorers", "anchor")
    @classmethod
    def _check_placeholders(cls, value: Any, info: ValidationInfo) -> Any:
        names = variant_names(info) | _slider_names(info)
        raise_mistakes(unfilled(to_jsonable_python(value), names), value)
        return value

    @field_validator("question", "preserve")
    @classmethod
    def _check_questions(cls, value: Any, info: ValidationInfo) -> Any:
        mistakes: list[Mistake] = []
        prompts, names = info.data.get("prompts"), variant_names(info) | _slider_names(info)
        several = isinstance(value, tuple)
        for index, question in enumerate(value if several else [value] if value else []):
            path: KeyPath = (index,) if several else ()
            mistakes += unfilled(question.model_dump(exclude={"template", "paraphrases"}), names, path)
            if info.field_name == "preserve" and question.paraphrases:
                message, hint = "only the evaluation asks this question, in the wording of `template`", "remove them"
                mistakes.append(Mistake((*path, "paraphrases"), message, hint))
            for key, text in wordings(question.model_dump()):
                place = (*path, *key)
                if prompts:
                    mistakes += prompts.placeholder_mistakes(text, place, also=("prompt",), suggested=names)
            if len(mistakes) > MAX_PROBLEMS:
                break
        if several and len({len(question.candidates) for question in value}) > 1:
            counts = ", ".join(str(len(question.candidates)) for question in value)
            mistakes.append(Mistake((), f"all questions need the same number of candidates, found {counts}"))
        raise_mistakes(mistakes, value)
        return value

    @field_validator("variants")
    @classmethod
    def _check_variants(
        cls, variants: dict[str, dict[str, Scalar]], info: ValidationInfo
    ) -> dict[str, dict[str, Scalar]]:
        names = {name for values in variants.values() for name in values}
        prompts = info.data.get("prompts")
        fields = {"prompt", *(prompts.fields if prompts else ["subject"])}
        sliders = _slider_names(info)
        mistakes = []
        for variant, values in variants.items():
            if variant.lower() in RUN_FOLDERS:
                message, hint = f"`{variant}` is the name of a folder in every run", "choose another name"
                mistakes.append(Mistake((variant,), message, hint))
            for name in sorted(names - set(values)):
                message, hint = f"the variant has no value for `{name}`", "all variants must set the same names"
                mistakes.append(Mistake((variant,), message, hint))
            for name in sorted(fields & set(values)):
                message, hint = f"`{name}` is already a field of the prompts", "choose another name"
                mistakes.append(Mistake((variant, name), message, hint))
            for name in sorted(sliders & set(values)):
                message, hint = f"`{name}` is also a slider", "a placeholder has one source: remove one of them"
                mistakes.append(Mistake((variant, name), message, hint))
        raise_mistakes(mistakes, variants)
        return variants

    @field_validator("variant")
    @classmethod
    def _check_variant(cls, variant: str | None, info: ValidationInfo) -> str | None:
        variants = info.data.get("variants")
        if variants and variant is None:
            raise_mistakes([Mistake((), "no variant is chosen", f"choose one of: {', '.join(variants)}")], variant)
        if variants is not None and variant is not None and variant not in variants:
            raise_mistakes([Mistake((), f"unknown variant `{variant}`", nearest(variant, list(variants)))], variant)
        return variant

    @field_validator("train")
    @classmethod
    def _check_preview(cls, train: Train, info: ValidationInfo) -> Train:
        prompts = info.data.get("prompts")
        asked = train.preview.prompts or () if train.preview is not None and prompts else ()
        held_out = {prompt.text for prompt in prompts.eval_prompts()} if asked and prompts else set()
        message, hint = "this prompt is held out: it must not be seen during training", "use another prompt"
        mistakes = [
            Mistake(("preview", "prompts", index), message, hint)
            for index, text in enumerate(asked)
            if text in held_out
        ]
        raise_mistakes(mistakes, train)
        return train

    def preview_prompts(self) -> tuple[str, ...]:
        """The prompts of the previews during training; empty without `train.preview`."""
        if self.train.preview is None:
            return ()
        first = self.prompts.train_prompts()[:PREVIEWED]
        return self.train.preview.prompts or tuple(dict.fromkeys(prompt.text for prompt in first))

    @field_validator("train")
    @classmethod
    def _check_stop(cls, train: Train, info: ValidationInfo) -> Train:
        if train.stop is not None and "referee" in info.data and info.data["referee"] is None:
            hint = "add the key `referee`, or remove `train.stop`"
            raise_mistakes([Mistake(("stop",), "early stopping needs a referee", hint)], train)
        return train


def _slider_names(info: ValidationInfo) -> frozenset[str]:
    """The names of the spec's sliders, also of those with mistakes if a spec is being loaded."""
    return frozenset(info.data.get("sliders", (info.context or {}).get("slider_names", ())))
