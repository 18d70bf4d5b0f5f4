"""What the checks of `gpu_check.py` share: the device with its clock and memory, and the reports."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

GB = 1e9
FULL, SMALL = "full", "small"
ROOT = Path(__file__).resolve().parents[1]
# The small model families of the tests; and this checkout, even if another version is installed.
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]


class Skip(Exception):  # noqa: N818 - not an error
    """Raised by a check that cannot run here; the message is the reason."""


class OutOfTime(BaseException):
    """Raised in a check that exceeds its time limit. Not an Exception, so that no `except Exception` catches it."""


@dataclass
class Report:
    """The measurements of a check, and the required values that it missed; both survive an exception in the check."""

    facts: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)

    def note(self, **facts: Any) -> None:
        """Add facts."""
        self.facts.update(facts)

    def want(self, met: bool, what: str) -> None:
        """Make the check fail unless `met`; `what` is the requirement."""
        if not met:
            self.missed.append(what)


@dataclass
class Machine:
    """The device and scale of the checks, and what they share."""

    kind: str
    """`cuda`, `cpu`, or `pretended` (tests/pretended_gpu.py)."""
    scale: str
    """`full`, or `small` for a rehearsal."""
    out: Path
    """The folder of the results, and of nothing else."""
    scratch: Path
    """The folder of runs, deleted at the end of the process."""
    configs: Path
    """The folder with the configurations of the real-size models, at this scale."""
    plans: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Predictions of `dp plan` by case; see `gpu_real.predictions`."""
    ends: float = math.inf
    """When the current check must end, by `time.monotonic`."""
    traffic: Any = None
    """The counters of the pretended GPU, if it is the device."""
    engine: Any = None
    """The engine that several checks share, while it exists."""
    refused: str = ""
    """Why the shared engine could not be built; empty if it could."""

    @property
    def device(self) -> str:
        """The name of the device in a spec."""
        return "auto" if self.kind == "pretended" else self.kind

    @property
    def place(self) -> Any:
        """The device for torch."""
        return "gpu:0" if self.kind == "pretended" else self.kind

    @property
    def cuda(self) -> bool:
        """Whether the device is a real GPU, which counts its memory."""
        return self.kind == "cuda"

    @property
    def full(self) -> bool:
        """Whether requirements on time and memory apply."""
        return self.scale == FULL and self.cuda

    def left(self) -> float:
        """Seconds until the current check must end."""
        return self.ends - time.monotonic()

    def synchronize(self) -> None:
        """Wait until the GPU has finished its work."""
        if self.cuda:
            torch.cuda.synchronize()

    def alive(self) -> bool:
        """Whether the GPU still works; after some errors, it refuses all work for this process."""
        try:
            self.synchronize()
        except RuntimeError:
            return False
        return True

    def tidy(self) -> None:
        """Release all memory that is not in use."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def allocated(self) -> float | None:
        """GB allocated on the GPU now; None without a GPU."""
        return torch.cuda.memory_allocated() / GB if self.cuda else None

    @contextmanager
    def peaks(self) -> Iterator[dict[str, float]]:
        """Peak GPU memory within, in GB: `allocated_gb` by tensors, `reserved_gb` by torch; {} without a GPU."""
        found: dict[str, float] = {}
        self.tidy()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        try:
            yield found
        finally:
            if self.cuda and self.alive():
                found["allocated_gb"] = torch.cuda.max_memory_allocated() / GB
                found["reserved_gb"] = torch.cuda.max_memory_reserved() / GB

    @contextmanager
    def memory_limit(self, size: float) -> Iterator[None]:
        """Within, torch reserves at most `size` bytes."""
        if not self.cuda:
            yield
            return
        self.tidy()
        torch.cuda.set_per_process_memory_fraction(min(1.0, size / torch.cuda.get_device_properties(0).total_memory))
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def timed(self, run: Callable[[], Any], *, times: int, warm: int = 0) -> list[float]:
        """Seconds of each of `times` runs, after `warm` runs that are not counted."""
        taken = []
        for _ in range(warm + times):
            self.synchronize()
            started = time.perf_counter()
            run()
            self.synchronize()
            taken.append(time.perf_counter() - started)
        return taken[warm:]


def median(values: list[float]) -> float:
    """The median; nan of no values."""
    return statistics.median(values) if values else math.nan


def short(error: BaseException) -> str:
    """An exception in one line: type and message of its root cause, and the innermost lines outside torch."""
    while error.__cause__ is not None:
        error = error.__cause__
    places = [
        f"{frame.filename.split('site-packages/')[-1].removeprefix(f'{ROOT}/')}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename and "pretended_gpu" not in frame.filename
    ]
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:240]} at {' < '.join(reversed(places[-3:]))}"


def rounded(value: Any) -> Any:
    """The value with all numbers rounded to four digits, for JSON."""
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): rounded(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(one) for one in value]
    return value if isinstance(value, (int, str, type(None))) else str(value)


def in_a_line(facts: Mapping[str, Any]) -> str:
    """The facts with a single value, as `name=value, ...`."""
    return ", ".join(
        f"{name}={rounded(value)}" for name, value in facts.items() if isinstance(value, (int, float, str, bool))
    )
