"""Sliders: placeholders whose value is chosen after training, from a range that the spec declares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationInfo, field_validator, model_serializer

from dualproc.errors import DualprocError
from dualproc.wording import nearest

from .document import Node, from_data
from .fields import Finite, SpecModel
from .mistakes import Mistake, raise_mistakes
from .template import SECTIONS, fill

if TYPE_CHECKING:
    from .models import TaskSpec

FILLED = tuple(str(section[0]) for section in SECTIONS if len(section) == 1)
"""The keys of a spec in which a slider's value is filled in: those of a variant, except `prompts.template`."""


class Slider(SpecModel):
    """The range of one slider. Its position u is -1 at `from` and 1 at `to`."""

    low: Finite = Field(alias="from", description="The lowest value.")
    high: Finite = Field(alias="to", description="The highest value.")
    degree: Annotated[int, Field(strict=True, ge=1, le=2)] = Field(
        default=1,
        description="1: the slider has one LoRA, at weight u. 2: it has a second one, at weight u * u, for effects "
        "that are not proportional to u.",
    )

    @field_validator("high")
    @classmethod
    def _check_order(cls, high: float, info: ValidationInfo) -> float:
        if high <= info.data.get("low", -math.inf):
            raise_mistakes([Mistake((), "`to` is not above `from`", "write the lowest value first")], high)
        if math.isinf(high - info.data.get("low", 0)):
            raise_mistakes([Mistake((), "the range is too large")], high)
        return high

    @model_serializer
    def _by_key(self) -> dict[str, float | int]:
        return {"from": self.low, "to": self.high, "degree": self.degree}

    def value(self, position: float) -> float:
        """The value at a position in [-1, 1], rounded to a thousandth of the range or finer."""
        exact = self.low + (position + 1) / 2 * (self.high - self.low)
        rounded = round(exact, 3 - math.floor(math.log10(self.high - self.low)))
        return min(max(rounded, self.low), self.high)

    def position(self, value: float) -> float:
        """The position of a value: -1 at `from`, 1 at `to`."""
        return 2 * (value - self.low) / (self.high - self.low) - 1


def complete(sliders: Mapping[str, Slider], values: Mapping[str, float]) -> dict[str, float]:
    """A value for every slider, by name; those without one in `values` get the middle of their range.

    Raises DualprocError if a value is outside the range, or if there is no such slider.
    """
    for name, value in values.items():
        if name not in sliders:
            hint = nearest(name, list(sliders)) if sliders else "only a spec with `sliders` has values to choose"
            raise DualprocError(f"there is no slider `{name}`", hint=hint)
        low, high = sliders[name].low, sliders[name].high
        if not low <= value <= high:
            message = f"{name}={value:g} is outside the slider's range, {low:g} to {high:g}"
            raise DualprocError(message, hint="the LoRA is trained for values in this range only")
    return {name: values.get(name, slider.value(0)) for name, slider in sliders.items()}


def filled(spec: TaskSpec, values: Mapping[str, float]) -> TaskSpec:
    """The spec with a value of every slider filled in, and without sliders. Raises ValidationError.

    Only the parts with placeholders are validated again: a training step does this, and prompts may be many.
    """
    nodes = {name: Node(value) for name, value in values.items()}
    parts = fill(from_data(spec.model_dump(include=set(FILLED))), nodes).plain()
    few = {"template": spec.prompts.template, "train": spec.prompts.train[:1], "eval": spec.prompts.eval[:1]}
    checked = type(spec).model_validate({**parts, "name": spec.name, "prompts": few})
    return spec.model_copy(update={key: getattr(checked, key) for key in FILLED} | {"sliders": {}})


def corners(sliders: Mapping[str, Slider]) -> list[dict[str, float]]:
    """The lowest values of all sliders, and the highest ones."""
    return [{name: getattr(slider, end) for name, slider in sliders.items()} for end in ("low", "high")]
