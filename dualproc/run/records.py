"""The dataclasses of a run as JSON and back. Numbers that are not finite are null in the file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json as pydantic_json

from dualproc.errors import DamageError
from dualproc.types import Evaluation

T = TypeVar("T")

_SUM = "sha256"
_SEAL = re.compile(rf',\s*"{_SUM}":\s*"([^"]*)"\s*}}\s*$')


@dataclass(frozen=True)
class Outcome:
    """How a fit went; written when it ends, so a run without it is unfinished."""

    steps: int
    """Training steps done."""
    lora_step: int
    """The step that the run's LoRA is from: the last one, or with `train.stop` the one the referee scored highest."""
    stopped: str | None
    """Why the fit ended before its last step; None if it did not."""
    interrupted: bool
    """Whether the reason was Ctrl+C or SIGTERM: then the run can be resumed."""
    seconds: float
    """Training: the sum of all steps, also of earlier sessions; without loading, monitoring and evaluation."""
    wall_seconds: float
    """From the start of the last session's fit to its end: everything but the loading of the models."""
    peak_memory: int | None
    """Peak main memory of the last session's process in bytes; None where unknown."""
    skipped: int = 0
    """Steps that did not change the LoRA, because their loss or gradient was not finite."""
    peak_gpu_memory: Mapping[str, int] = field(default_factory=dict)
    """Peak GPU memory of the last session's tensors in bytes, by device such as `cuda:0`; empty without such a GPU."""


def to_json(value: Any, *, indent: int | None = None) -> str:
    """`value` (dataclasses, mappings, sequences, numbers, text) as strict JSON."""
    return pydantic_json(value, indent=indent, inf_nan_mode="null").decode()


def sealed(value: Any, *, indent: int | None = None) -> str:
    """`to_json` of a dataclass, with a last key that has the checksum of the text before it."""
    text = to_json(value, indent=indent).removesuffix("}").rstrip()
    separator = "," if indent is None else f",\n{' ' * indent}"
    return f'{text}{separator}"{_SUM}":"{_sum(text)}"}}'


def from_json(kind: type[T], text: str, *, source: Path | str, hint: str | None = None) -> T:
    """A dataclass `kind` from what `to_json` or `sealed` wrote. Unknown keys are left out, a null number becomes nan.

    Raises RunError, naming `source` and with the hint, if the text is not JSON, does not fit, or is not as `sealed`
    wrote it.
    """
    if (seal := _SEAL.search(text)) and seal[1] != _sum(text[: seal.start()]):
        raise DamageError(f"{source} is damaged: it has changed since it was written (its checksum differs)", hint=hint)
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        cause = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise DamageError(f"{source} is damaged, or from another version of dualproc: {cause}", hint=hint) from error


def fits_together(evaluation: Evaluation) -> bool:
    """Whether base and trained generator were measured on the same images, at least one, by the same scorers."""
    per_image: list[Sequence[float]] = [evaluation.seeds, *evaluation.asked.values()]
    measured_by = []
    for one in (evaluation.base, evaluation.trained):
        scores = [*one.scores, *one.side_effects]
        per_image += [one.judge, *(score.values for score in scores)]
        per_image += [values for values in (one.referee, one.preserved) if values is not None]
        sliders = [(known.slider, known.scorer, len(known.points)) for known in one.calibration]
        measured_by.append(([score.name for score in scores], one.referee is None, one.preserved is None, sliders))
    same = measured_by[0] == measured_by[1] and all(len(values) == len(evaluation.prompts) for values in per_image)
    return same and bool(evaluation.prompts)


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
