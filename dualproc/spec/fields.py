"""The field types of the spec models."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
WORD = r"^[A-Za-z_][A-Za-z0-9_]*$"
NOT_BLANK = r"\S"

RUN_FOLDERS = ("checkpoints", "generated", "inputs", "samples", "sliders")
"""Subfolders of a run: a variant of such a name would lie in the run of a spec of the same name without variants."""

Name = Annotated[str, Field(pattern=NAME, max_length=100)]
"""Letters, digits, `_` and `-`, at most 100 characters: safe as a folder name."""
Word = Annotated[str, Field(pattern=WORD, max_length=100)]
"""Letters, digits and `_`, at most 100 characters: usable as a `{placeholder}`."""
Text = Annotated[str, Field(pattern=NOT_BLANK, max_length=2000)]
"""A string that is not blank, at most 2000 characters."""

Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Shift = Annotated[float, Field(strict=True, ge=-1, le=1, allow_inf_nan=False)]


class SpecModel(BaseModel):
    """Base of all parts of a spec: unknown keys are mistakes, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
