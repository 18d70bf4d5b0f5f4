"""References to plugins in a spec: the plugin's name as `type`, and its parameters as further keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator

from .document import KeyPath, dotted, split
from .fields import NotNegative, Positive, SpecModel, Text
from .mistakes import plain_data


class PluginRef(SpecModel):
    """A plugin by name. All keys except `type` are parameters, which the plugin's own `Params` checks later.

    In Python: `PluginRef(type="line", width=0.02)`, or `PluginRef.model_validate({"type": "line", "from": [0, 0]})`.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    type: Text = Field(
        description="Name of the plugin (see `dp plugins`), or `distribution/name` if several distributions have it."
    )

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return plain_data(data) if isinstance(data, Mapping) else data

    @property
    def params(self) -> dict[str, Any]:
        """The plugin's parameters: dicts, lists, strings, numbers, booleans and None."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """The plugin's name with those of its parameters that are words, such as `tone lightness`."""
        return " ".join([self.type, *(value for value in self.params.values() if isinstance(value, str))])


class LayerRef(PluginRef):
    """A layer of the visual prompt by name; it may be hidden without being lost."""

    hidden: bool = Field(default=False, strict=True, description="Leave this layer out of the visual prompt.")


class AnchorRef(PluginRef):
    """An anchor by name, with the weight of its penalty and how often it is added."""

    weight: NotNegative = Field(default=1.0, description="Factor of the penalty in the loss; 0 turns the anchor off.")
    share: Annotated[Positive, Field(le=1)] = Field(
        default=1.0,
        description="Add the penalty in this share of the training steps, drawn at random, and divide it by the share, "
        "so its mean stays the same. Less than 1 saves the anchor's time in the other steps.",
    )


class MemberRef(PluginRef):
    """One member of an ensemble of judges, by name, with its weight."""

    weight: Annotated[Positive, Field(le=1000)] = Field(
        default=1.0,
        description="Weight of this judge's probabilities in the ensemble's mean, relative to the other members'.",
    )


def weighted(named: PluginRef | tuple[MemberRef, ...] | None) -> tuple[tuple[float, PluginRef], ...]:
    """The judges in one place of a spec, each with its weight; a single judge has the weight 1."""
    if isinstance(named, tuple):
        return tuple((member.weight, member) for member in named)
    return ((1.0, named),) if named else ()


class PluginPlace(NamedTuple):
    """One reference to a plugin in a spec."""

    path: str
    """Dotted path, such as `visual_prompt.layers.0`."""
    kind: str
    """One of `dualproc.protocols.KINDS`."""
    type: str
    params: dict[str, Any]

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The keys that the spec reads itself: `type`, and in some places `weight` or `hidden`."""
        pattern = tuple("*" if str(part).isdecimal() else part for part in split(self.path))
        model = next((model for place, _, model in _PLACES if place == pattern), PluginRef)
        return tuple(model.model_fields)


MAX_LISTED = 100
"""Maximum number of layers, and of scorers; later items are ignored, because the spec is invalid anyway."""

_PLACES: tuple[tuple[KeyPath, str, type[PluginRef]], ...] = (
    (("reward",), "rewards", PluginRef),
    (("visual_prompt", "layers", "*"), "visual_prompts", LayerRef),
    (("generator",), "generators", PluginRef),
    (("judge",), "judges", PluginRef),
    (("judge", "*"), "judges", MemberRef),
    (("referee",), "judges", PluginRef),
    (("referee", "*"), "judges", MemberRef),
    (("scorers", "*"), "scorers", PluginRef),
    (("evaluation", "side_effects", "*"), "scorers", PluginRef),
    (("anchor",), "anchors", AnchorRef),
    (("anchor", "*"), "anchors", AnchorRef),
)


def fullest_ref(kind: str) -> type[PluginRef]:
    """The reference to a plugin of this kind with the most keys that the spec reads itself, besides `type`."""
    models = (model for _, of, model in _PLACES if of == kind)
    return max(models, key=lambda model: len(model.model_fields))


def plugin_places(data: Mapping[str, Any]) -> Iterator[PluginPlace]:
    """Every plugin named in a spec's plain data; values that are not a mapping with a `type` are skipped."""
    for pattern, kind, model in _PLACES:
        for path, ref in _matches(data, pattern, ()):
            if isinstance(ref, Mapping) and isinstance(ref.get("type"), str):
                params = {key: value for key, value in ref.items() if key not in model.model_fields}
                yield PluginPlace(dotted(path), kind, ref["type"], params)


def _matches(data: Any, pattern: KeyPath, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """The values that a path pattern matches, with their paths; `*` matches every item of a list."""
    if not pattern:
        yield path, data
    elif pattern[0] == "*":
        for index, item in enumerate(islice(data, MAX_LISTED) if isinstance(data, (list, tuple)) else ()):
            yield from _matches(item, pattern[1:], (*path, index))
    elif isinstance(data, Mapping) and pattern[0] in data:
        yield from _matches(data[pattern[0]], pattern[1:], (*path, pattern[0]))


def one_or_list(value: Any) -> str:
    """The tag of the union member for a value: `<list>` for a list, `<one>` for anything else."""
    return "<list>" if isinstance(value, (list, tuple)) else "<one>"


# `schema.json_schema` replaces these markers with the installed plugins of each kind.
RewardRef = Annotated[PluginRef, WithJsonSchema({"x-plugin": "rewards"})]
VisualLayerRef = Annotated[LayerRef, WithJsonSchema({"x-plugin": "visual_prompts"})]
GeneratorRef = Annotated[PluginRef, WithJsonSchema({"x-plugin": "generators"})]
JudgeRef = Annotated[PluginRef, WithJsonSchema({"x-plugin": "judges"})]
ScorerRef = Annotated[PluginRef, WithJsonSchema({"x-plugin": "scorers"})]
JudgeMemberRef = Annotated[MemberRef, WithJsonSchema({"x-plugin": "members"})]
WeightedAnchorRef = Annotated[AnchorRef, WithJsonSchema({"x-plugin": "anchors"})]

One = TypeVar("One")
Several = TypeVar("Several")
OneOrMore = Annotated[Annotated[One, Tag("<one>")] | Annotated[Several, Tag("<list>")], Discriminator(one_or_list)]
_UP_TO_TEN = Field(min_length=1, max_length=10)
OneOrMoreJudges = OneOrMore[JudgeRef, Annotated[tuple[JudgeMemberRef, ...], _UP_TO_TEN]]
OneOrMoreAnchors = OneOrMore[WeightedAnchorRef, Annotated[tuple[WeightedAnchorRef, ...], _UP_TO_TEN]]
