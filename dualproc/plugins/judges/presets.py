"""Judges by name: each a set of parameters for `transformers`."""

from __future__ import annotations

from pathlib import Path

from dualproc.protocols import Preset

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

TINY = Preset(
    of="transformers",
    summary="The shipped judge (LLaVA classes, 64 x 64 pixels): line weight, horizon, subjects.",
    params={"model": str(WEIGHTS / "judge")},
)
TINY_REFEREE = Preset(
    of="transformers",
    summary="The shipped referee (Idefics3 classes, trained apart): the same questions, never differentiated.",
    params={"model": str(WEIGHTS / "referee")},
)

QWEN2_5_VL = Preset(
    of="transformers",
    summary="Qwen2.5-VL-7B-Instruct, in bfloat16.",
    params={"model": "Qwen/Qwen2.5-VL-7B-Instruct", "dtype": "bfloat16"},
)
