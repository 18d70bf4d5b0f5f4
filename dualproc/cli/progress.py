"""Progress bars, and suppression of the libraries' own output."""

from __future__ import annotations

import logging
import os
import warnings
from types import TracebackType
from typing import TYPE_CHECKING

from dualproc.errors import DualprocWarning

from .output import print_warning

if TYPE_CHECKING:
    from dualproc.types import StepRecord


def quiet() -> None:
    """Suppress progress bars and warnings of the libraries. Call it before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it reports every attempt to reach the hub
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=DualprocWarning)
    warnings.showwarning = lambda message, *_, **__: print_warning(str(message))
    logging.getLogger("torch").setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


class Bars:
    """One bar for training steps and one for evaluated images; implements `dualproc.engine.fit.Progress`."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("left  {task.fields[note]}"),
        )  # fmt: skip
        self._steps = self._progress.add_task("training ", total=None, note="", visible=False)
        self._images = self._progress.add_task("evaluating", total=None, note="", visible=False)
        self._referee = ""

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, record: StepRecord, total: int) -> None:
        """Show loss, reward and the referee's latest P(wanted answer)."""
        if record.referee is not None:
            self._referee = f" referee {record.referee:.2f}"
        note = f"loss {record.loss:.2f} reward {record.reward:.2f}{self._referee}"
        if record.skipped:
            note += " (not finite: skipped)"
        self._progress.update(self._steps, completed=record.step, total=total, note=note, visible=True)

    def ending(self) -> None:
        """Confirm Ctrl+C."""
        self._progress.console.print(
            "Training stopped. Saving and evaluating the LoRA; press Ctrl+C again to exit at once."
        )

    def images(self, done: int, total: int) -> None:
        """Show how many images are done."""
        self._progress.update(self._images, completed=done, total=total, visible=True)
