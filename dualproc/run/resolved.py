"""A run's resolved spec as plain data, so that runs of other versions of dualproc can be shown too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualproc.errors import DamageError, SpecError
from dualproc.spec import TaskSpec, to_yaml
from dualproc.spec.reading import read_text
from dualproc.spec.template import fill_text

MAY_CHANGE = re.compile(
    r"evaluation\..+|train\.(watch\..+|preview(\..+)?|checkpoint_every|accumulate|trackers)"
    r"|(generator|judge|referee)\.(checkpointing|device|offload)"
)
"""Keys of a spec that may change during a run: they select what is measured, and what fits into memory."""
LR_DECAY = "train.lr_decay"
STEPS = "train.steps"
"""May be raised when a training continues: no step depends on how many follow, so the result is one longer run's."""


@dataclass(frozen=True)
class Task:
    """The part of a spec that reports show; empty where the spec has no value. A slider is shown as its range."""

    name: str
    """With the variant: `line_weight, thick`."""
    description: str
    questions: tuple[tuple[str, str], ...]
    """(template, wanted answer) of each."""
    preserve: str
    """The question whether the subject is kept."""
    steps: int
    """Planned training steps; 0 if unknown."""


def plain(resolved_text: str, source: Path | str) -> dict[str, Any]:
    """The spec as mappings, lists and scalars. Raises RunError, naming `source`, if it cannot be read."""
    tree, problems = read_text(resolved_text, str(source))
    if tree is None or problems:
        raise DamageError(f"{source} is damaged: {problems[0]}")
    content: dict[str, Any] = tree.plain()
    return content


def task(spec: Mapping[str, Any]) -> Task:
    """The task, from what `plain` returned."""
    ranges = {name: _mapping(one) for name, one in _mapping(spec.get("sliders")).items()}
    values = {name: f"{one.get('from')} to {one.get('to')}" for name, one in ranges.items()}
    given, steps = spec.get("question"), _mapping(spec.get("train")).get("steps")
    questions = [_mapping(one) for one in (given if isinstance(given, list) else [given])]
    asked = [(one, _template(one)) for one in questions]
    return Task(
        name=", ".join(str(spec[key]) for key in ("name", "variant") if spec.get(key)),
        description=fill_text(str(spec.get("description") or ""), values),
        questions=tuple((fill_text(text, values), _answer(one)) for one, text in asked if text),
        preserve=fill_text(_template(_mapping(spec.get("preserve"))), values),
        steps=steps if isinstance(steps, int) else 0,
    )


def slider_loras(spec: Mapping[str, Any]) -> list[str]:
    """The names of the sliders' LoRAs, from what `plain` returned: one for each slider and power of its value."""
    degrees = {name: _mapping(one).get("degree", 1) for name, one in _mapping(spec.get("sliders")).items()}
    known = {name: degree for name, degree in degrees.items() if type(degree) is int and degree in (1, 2)}
    return [f"{name}-{power}" if power > 1 else name for name, most in known.items() for power in range(1, most + 1)]


def differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], *, training: bool = False) -> list[str]:
    """Dotted keys whose values differ between the specs of two runs, in alphabetical order; without `MAY_CHANGE`.

    A key that one of them lacks, because an earlier version of dualproc wrote it, has its default there.
    If the `training` continues with `new`, also without `train.steps` where it was raised. With `train.lr_decay`, the
    learning rate of the steps so far depends on the number of steps, so it cannot be raised.
    """
    before, after = dict(leaves(_filled_in(old))), dict(leaves(_filled_in(new)))
    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    # A learning rate that falls towards the last step would have been another one in all steps done so far.
    if training and not before.get(LR_DECAY) and _count(before.get(STEPS)) < _count(after.get(STEPS)):
        differ.discard(STEPS)
    return sorted(key for key in differ if not MAY_CHANGE.fullmatch(key))


def _filled_in(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the defaults of keys that an earlier version of dualproc did not write; unchanged if it is not valid."""
    try:
        return plain(to_yaml(TaskSpec.model_validate(spec)), "the resolved spec")
    except SpecError:
        return spec


def _count(value: Any) -> int:
    return value if isinstance(value, int) else 0


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested mappings."""
    if isinstance(value, Mapping):  # an empty one is the same as none: runs of earlier versions have no `sliders`
        for key, item in value.items():
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _answer(question: Mapping[str, Any]) -> str:
    """The wanted answer; of several wordings the first."""
    answer = question.get("answer", "Yes")
    return str(answer[0] if isinstance(answer, list) and answer else answer)


def _template(question: Mapping[str, Any]) -> str:
    return str(question.get("template") or "")
