"""Progress bars, and suppression of the libraries' own output. Imported on use: `dp --help` must not load rich."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Sequence

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dualproc.errors import DualprocWarning
from dualproc.run import RunFolder
from dualproc.types import StepRecord

from .output import print_progress, print_warning
from .processes import Job, TrainingProcess


def quiet() -> None:
    """Suppress progress bars and warnings of the libraries, except progress of downloads.

    Call it before the libraries are imported.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # it reports every attempt to reach the hub
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=DualprocWarning)
    warnings.showwarning = lambda message, *_, **__: print_warning(str(message))
    logging.getLogger("torch").setLevel(logging.ERROR)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()  # also the hub's
    _show_downloads()


def _show_downloads() -> None:
    """Show downloads from the hub: its own bars in a terminal, elsewhere (in a log) a line for each file.

    Nothing is shown where the user has set HF_HUB_DISABLE_PROGRESS_BARS.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars

    downloads = "huggingface_hub"  # the bars of downloads are in this group; the others count files, or checked files
    enable_progress_bars(downloads)
    if not (are_progress_bars_disabled(downloads) or sys.stderr.isatty()):
        logger = logging.getLogger("huggingface_hub.file_download")
        logger.setLevel(logging.DEBUG)
        logger.addFilter(_print_download)


def _print_download(record: logging.LogRecord) -> bool:
    """Print a line if the hub logs the start of a download. Whether the record itself is to be logged: errors are."""
    if started := re.match("Downloading '(.+)' to '", record.getMessage()):
        print_progress(f"downloading {started[1]}")
    return record.levelno >= logging.ERROR


class Bars(Progress):
    """Bars with a count, the time left and a note."""

    def __init__(self, *, disable: bool = False) -> None:
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=16), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("left  {task.fields[note]}", markup=False),
        )  # fmt: skip
        super().__init__(*columns, disable=disable, speed_estimate_period=3600)


class FitBars(Bars):
    """One bar for training steps and one for evaluated images; implements `dualproc.engine.fit.Progress`."""

    def __init__(self) -> None:
        super().__init__()
        self._training = self.add_task("training ", total=None, note="", visible=False)
        self._evaluating = self.add_task("evaluating", total=None, note="", visible=False)
        self._referee = ""

    def step(self, record: StepRecord, total: int) -> None:
        """Show loss, reward and the referee's latest P(wanted answer)."""
        if record.referee is not None:
            self._referee = f" referee {record.referee:.2f}"
        note = f"loss {record.loss:.2f} reward {record.reward:.2f}{self._referee}"
        if record.skipped:
            note += " (not finite: skipped)"
        self.update(self._training, completed=record.step, total=total, note=note, visible=True)

    def ending(self) -> None:
        """Confirm Ctrl+C."""
        self.console.print("Training stopped. Saving and evaluating the LoRA; press Ctrl+C again to exit at once.")

    def images(self, done: int, total: int) -> None:
        """Show how many images are done."""
        self.update(self._evaluating, completed=done, total=total, visible=True)


class BenchBars(Bars):
    """One bar for the training steps of all variants, one for each running fit.

    Without a terminal, it only prints one line when a fit ends.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(disable=not (jobs and get_console().is_terminal))
        self._steps = {job: RunFolder(job.folder).saved_step for job in jobs}
        self._running: dict[Job, TaskID] = {}
        self._done = 0
        total, before = sum(job.spec.train.steps for job in jobs), sum(self._steps.values())
        self._all = self.add_task("all variants", total=total, completed=before, note="")

    def show(self, process: TrainingProcess, *, ending: bool) -> None:
        """Update the bar of a running fit; `ending` if it was asked to end."""
        job, steps = process.job, process.steps_done()
        if job not in self._running:
            self._running[job] = self.add_task(job.spec.label, total=job.spec.train.steps, completed=steps, note="")
        note = "stopping after this step (press Ctrl+C again to stop at once)" if ending else process.stage()
        self.update(self._running[job], completed=steps, note=note)
        self._show_all(job, steps)

    def done(self, job: Job, sentence: str | None) -> None:
        """Remove the bar of a fit that ended, and print `sentence`; None if the fit was interrupted."""
        if job in self._running:
            self.remove_task(self._running.pop(job))
        if sentence is not None:
            self._done += 1
            self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
            self._show_all(job, job.spec.train.steps)

    def _show_all(self, job: Job, steps: int) -> None:
        self._steps[job] = steps
        note = f"{self._done} of {len(self._steps)} variants done"
        self.update(self._all, completed=sum(self._steps.values()), note=note)
