"""The types that the models of a spec are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
WORD = r"^[A-Za-z_][A-Za-z0-9_]*$"
NOT_BLANK = r"\S"

Name = Annotated[str, Field(pattern=NAME, max_length=100)]
"""Letters, digits, `_` and `-`: fit for a folder."""
Word = Annotated[str, Field(pattern=WORD, max_length=100)]
"""Letters, digits and `_`: fit for a `{placeholder}`."""
Text = Annotated[str, Field(pattern=NOT_BLANK, max_length=2000)]

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Shift = Annotated[float, Field(strict=True, ge=-1, le=1, allow_inf_nan=False)]


class SpecModel(BaseModel):
    """A part of a spec: unknown keys are mistakes, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
