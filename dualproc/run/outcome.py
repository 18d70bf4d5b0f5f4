"""How a fit went: what it took, and whether it was completed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Written when a fit ends; a run without it is unfinished."""

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
