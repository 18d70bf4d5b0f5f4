"""TaskSpec: a task, declared. What every key means is said here once; the reference and the JSON schema repeat it."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from dualproc.wording import nearest

from .document import KeyPath, Scalar
from .fields import Count, Name, NotNegative, Positive, Share, Shift, SpecModel, Text, Word
from .mistakes import MAX_PROBLEMS, Mistake, plain_data, refuse, show
from .prompts import Prompts, QuestionSpec, variant_names
from .refs import (
    MAX_LISTED,
    AnchorRef,
    GeneratorRef,
    LayerRef,
    OneOrMoreAnchors,
    OneOrMoreJudges,
    PluginPlace,
    PluginRef,
    RewardRef,
    ScorerRef,
    one_or_list,
    plugin_places,
    weighted,
)
from .template import leftover

MAX_VARIANTS = 100


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        refuse([Mistake((), "the lower bound is above the upper one", "write [lowest, highest]")], bounds)
    return bounds


Range = Annotated[tuple[Shift, Shift], AfterValidator(_ordered)]


class Jitter(SpecModel):
    """How far the visual prompt is shifted, drawn anew for every image of every step: [lowest, highest]."""

    x: Range = Field(default=(0.0, 0.0), description="Shift to the right, as a share of the image's width.")
    y: Range = Field(default=(0.0, 0.0), description="Shift downwards, as a share of the image's height.")


class VisualPromptSpec(SpecModel):
    """The image instruction laid over the image before the judge sees it."""

    blend: Literal["solid", "alpha"] = Field(
        default="solid",
        description="`solid` covers the image where a layer draws; `alpha` lets it through by `opacity`.",
    )
    opacity: Share = Field(default=0.5, description="How much of an `alpha` visual prompt is seen, from 0 to 1.")
    jitter: Jitter = Field(default=Jitter(), description="Random shifts; none by default.")
    layers: tuple[LayerRef, ...] = Field(
        min_length=1, max_length=MAX_LISTED, description="What is drawn, from below to above."
    )


class Lora(SpecModel):
    """The weights that learn. Their effective scale is strength * alpha / rank."""

    rank: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(default=16, description="Rank of the LoRA.")
    alpha: Positive = Field(default=8.0, description="PEFT's `lora_alpha`.")
    strength: Positive = Field(
        default=5.0, description="Adapter weight in training; folded into the weights that are saved."
    )
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="Name endings of the layers that receive it, `*` standing for one part of a name; by default those "
        "that the generator suggests.",
    )


class Watch(SpecModel):
    """How a fit is watched while it goes on: by the referee, if the spec has one, and by the hack meter."""

    every: Count = Field(default=20, description="Steps from one look to the next.")
    images: Count = Field(
        default=16,
        validation_alias=AliasChoices("images", "pictures"),  # `pictures`: its name until 0.1.0
        description="Images per check: training prompts, with seeds of their own.",
    )


class Stop(SpecModel):
    """When to end early: the referee no longer sees an improvement."""

    patience: Count = Field(default=2, description="How many looks without an improvement end the training.")
    min_delta: NotNegative = Field(
        default=0.005, description="The least rise of its P(answer) that counts as an improvement."
    )


class Train(SpecModel):
    """The optimiser, the LoRA, and when to stop."""

    steps: Count = Field(default=100, description="Optimiser steps.")
    batch: Count = Field(default=4, description="Images a step, each from a seed of its own.")
    lr: Annotated[Positive, Field(le=1)] = Field(default=1e-4, description="Learning rate of AdamW.")
    weight_decay: Share = Field(default=0.0, description="Weight decay of AdamW.")
    clip: Positive = Field(default=1.0, description="The gradient's norm is clipped to this.")
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**32)] = Field(
        default=0, description="Decides every random draw."
    )
    lora: Lora = Field(default=Lora(), description="The weights that learn.")
    watch: Watch = Field(default=Watch(), description="Looks at the images while the LoRA is trained.")
    stop: Stop | None = Field(default=None, description="Ends the training early when the referee sees no improvement.")
    checkpoint_every: Count = Field(default=25, description="Steps from one checkpoint to the next.")
    max_skipped: Count = Field(
        default=5, description="The run stops after this many steps in a row whose loss is not finite."
    )


class EvaluationSpec(SpecModel):
    """How many images are measured, in what portions."""

    seeds: Count = Field(default=11, description="Images for each held-out prompt.")
    batch: Count = Field(default=16, description="Images generated and looked at in one go.")


OneOrMoreQuestions = Annotated[
    Annotated[QuestionSpec, Tag("<one>")]
    | Annotated[tuple[QuestionSpec, ...], Field(min_length=1, max_length=100), Tag("<list>")],
    Discriminator(one_or_list),
]


def _variant_value(value: Any) -> Any:
    value = plain_data(value)
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (list, dict)) for item in items):
        refuse([Mistake((), f"expected a single value or a list of them, found {show(value)}")], value)
    return value


VariantValue = Annotated[
    Any, BeforeValidator(_variant_value), WithJsonSchema({"type": ["string", "number", "boolean", "null", "array"]})
]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # which Python takes for 1
        refuse([Mistake((), f"expected 1, found {show(value)}")], value)
    return value


class TaskSpec(SpecModel):
    """A task: what is asked about which images, which answer is wanted, and how a generator learns to earn it."""

    schema_version: Annotated[Literal[1], BeforeValidator(_no_truth)] = Field(
        default=1, description="Version of this format."
    )
    name: Name = Field(description="Letters, digits, `_` and `-`; names the run folder.")
    description: str = Field(default="", max_length=2000, description="What the task trains, in a sentence or two.")
    prompts: Prompts = Field(description="What the generator is told.")
    question: OneOrMoreQuestions = Field(
        description="What the judge is asked about each image: one question or a list of them."
    )
    preserve: QuestionSpec | None = Field(
        default=None,
        description="What must stay true of the images; asked of the referee in evaluation, never trained on.",
    )
    reward: RewardRef = Field(
        default=PluginRef(type="yes_no_gap"), description="Turns the answers' scores into the reward."
    )
    visual_prompt: VisualPromptSpec | None = Field(default=None, description="The image instruction; none by default.")
    variants: Annotated[dict[Name, dict[Word, VariantValue]], Field(max_length=MAX_VARIANTS)] = Field(
        default={}, description="Named sets of values; each value fills the `{placeholder}` of its name."
    )
    variant: Name | None = Field(
        default=None,
        validate_default=True,
        description="The variant that this is. Chosen with `--variant`, and written down in a resolved spec.",
    )
    generator: GeneratorRef = Field(default=PluginRef(type="tiny"), description="The image model that learns.")
    judge: OneOrMoreJudges = Field(
        default=PluginRef(type="tiny"),
        description="The frozen vision-language model that trains: one judge, or a list of them that train as one.",
    )
    referee: OneOrMoreJudges | None = Field(
        default=None,
        description="A second judge that only watches; another family than the judge. One, or a list as in `judge`.",
    )
    scorers: tuple[ScorerRef, ...] = Field(
        default=(), max_length=MAX_LISTED, description="Independent measurements of the images."
    )
    anchor: OneOrMoreAnchors | None = Field(
        default=None, description="What keeps the images near the base generator's: one anchor or a list of them."
    )
    train: Train = Field(default=Train(), description="How the LoRA is trained.")
    evaluation: EvaluationSpec = Field(default=EvaluationSpec(), description="How the result is measured.")

    @property
    def label(self) -> str:
        """What people call it: `line_weight/thin`, or the name alone where there is no variant."""
        return f"{self.name}/{self.variant}" if self.variant else self.name

    @property
    def questions(self) -> tuple[QuestionSpec, ...]:
        """The questions, also where there is only one."""
        return (self.question,) if isinstance(self.question, QuestionSpec) else self.question

    @property
    def measured_questions(self) -> tuple[QuestionSpec, ...]:
        """The questions about the task itself: without a trained repetition of `preserve`, which is measured apart."""
        own = tuple(q for q in self.questions if self.preserve is None or q.template != self.preserve.template)
        return own or self.questions

    @property
    def judges(self) -> tuple[tuple[float, PluginRef], ...]:
        """The judges and their weights, also where there is only one."""
        return weighted(self.judge)

    @property
    def referees(self) -> tuple[tuple[float, PluginRef], ...]:
        """The referees and their weights, also where there is only one or none."""
        return weighted(self.referee)

    @property
    def anchors(self) -> tuple[AnchorRef, ...]:
        """The anchors, also where there is only one or none."""
        return self.anchor if isinstance(self.anchor, tuple) else (self.anchor,) if self.anchor else ()

    def plugins(self) -> tuple[PluginPlace, ...]:
        """Every plugin that the spec names, and where."""
        return tuple(plugin_places(self.model_dump()))

    # Checks across keys look back at the keys before them (`info.data` has those that are valid), one validator a
    # key, so that a mistake in one key does not hide those of the others.

    @field_validator("description", "reward", "visual_prompt", "scorers", "anchor")
    @classmethod
    def _filled(cls, value: Any, info: ValidationInfo) -> Any:
        refuse(_unfilled(_data(value), info), value)
        return value

    @field_validator("question", "preserve")
    @classmethod
    def _answerable(cls, value: Any, info: ValidationInfo) -> Any:
        mistakes: list[Mistake] = []
        prompts = info.data.get("prompts")
        several = isinstance(value, tuple)
        for index, question in enumerate(value if several else [value] if value else []):
            path: KeyPath = (index,) if several else ()
            mistakes += _unfilled(question.model_dump(exclude={"template"}), info, path)
            if prompts:
                names = variant_names(info)
                mistakes += prompts.unknown(question.template, (*path, "template"), also=("prompt",), suggested=names)
            if len(mistakes) > MAX_PROBLEMS:
                break
        if several and len({len(question.candidates) for question in value}) > 1:
            counts = ", ".join(str(len(question.candidates)) for question in value)
            mistakes.append(Mistake((), f"the questions have different numbers of candidates: {counts}"))
        refuse(mistakes, value)
        return value

    @field_validator("variants")
    @classmethod
    def _alike(cls, variants: dict[str, dict[str, Scalar]], info: ValidationInfo) -> dict[str, dict[str, Scalar]]:
        names = {name for values in variants.values() for name in values}
        mistakes = [
            Mistake((variant,), f"the variant has no value for `{name}`", "all variants set the same names")
            for variant, values in variants.items()
            for name in sorted(names - set(values))
        ]
        prompts = info.data.get("prompts")
        fields = {"prompt", *(prompts.fields if prompts else ["subject"])}
        for variant, values in variants.items():
            clashes = sorted(fields & set(values))
            mistakes += [Mistake((variant, name), f"`{name}` is a field of the prompts already") for name in clashes]
        refuse(mistakes, variants)
        return variants

    @field_validator("variant")
    @classmethod
    def _chosen(cls, variant: str | None, info: ValidationInfo) -> str | None:
        variants = info.data.get("variants")
        if variants and variant is None:
            refuse([Mistake((), "no variant is chosen", f"one of: {', '.join(variants)}")], variant)
        if variants is not None and variant is not None and variant not in variants:
            refuse([Mistake((), f"unknown variant `{variant}`", nearest(variant, list(variants)))], variant)
        return variant

    @field_validator("train")
    @classmethod
    def _stoppable(cls, train: Train, info: ValidationInfo) -> Train:
        if train.stop is not None and "referee" in info.data and info.data["referee"] is None:
            refuse([Mistake(("stop",), "to stop early, the spec needs a `referee`")], train)
        return train


def _data(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    return [_data(item) for item in value] if isinstance(value, tuple) else value


def _unfilled(data: Any, info: ValidationInfo, path: KeyPath = ()) -> list[Mistake]:
    """Placeholders that no variant has filled."""
    names = variant_names(info)
    # one that only this variant lacks is reported where it is missing
    unknown = ((place, name) for place, name in leftover(data, path) if name not in names)
    return [
        Mistake(place, f"unknown placeholder {{{name}}}", nearest(name, sorted(names)))
        for place, name in islice(unknown, MAX_PROBLEMS + 1)
    ]
