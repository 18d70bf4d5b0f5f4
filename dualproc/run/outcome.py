"""How a fit went: what it took, and whether it came to its end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Written when a fit ends; a run that has none is unfinished."""

    steps: int
    """Steps done."""
    lora_step: int
    """The step whose LoRA the run has."""
    stopped: str | None
    """Why the fit ended before its last step; None if it did not."""
    interrupted: bool
    """Whether that was Ctrl+C: then the run can go on."""
    seconds: float
    """Training: the sum of all steps, of earlier sittings too; without loading, looking and measuring."""
    wall_seconds: float
    """From the start of the last sitting's fit to the end: everything but the loading of the models."""
    peak_memory: int | None
    """Most main memory (bytes) that the process of the last sitting ever held; None where that is not known."""
