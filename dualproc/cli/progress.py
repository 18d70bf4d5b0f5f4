"""Progress bars, and suppression of the libraries' own output. Imported on use: `dp --help` must not load rich."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence

from rich import get_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dualproc.errors import DualprocWarning
from dualproc.report.summary import step_note
from dualproc.run import RunFolder
from dualproc.types import StepRecord
from dualproc.wording import duration, printable

from .output import print_progress, print_warning, say
from .processes import Job, RunningJob


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


LINE_EVERY = 30.0
"""Seconds between two lines of one bar where bars cannot be drawn."""


def can_draw() -> bool:
    """Whether bars can be redrawn in place: in a terminal, but not in the output of `!dp run` in a notebook.

    A notebook runs commands in a pseudo-terminal, and keeps every drawing. Its kernel has `JPY_PARENT_PID`. Rich alone
    would also draw into files, where `FORCE_COLOR` is set.
    """
    console = get_console()
    terminal = console.is_terminal and not console.is_dumb_terminal and sys.stdout.isatty()
    return terminal and "JPY_PARENT_PID" not in os.environ


class Bars(Progress):
    """Bars with a count, the time left and a note. Where bars cannot be drawn, each prints a line now and then."""

    def __init__(self, *, disable: bool = False, every: float = LINE_EVERY) -> None:
        """`every` is the number of seconds between two lines of one bar."""
        self._every = None if disable or can_draw() else every
        self._began = time.monotonic()
        self._lines: dict[TaskID, tuple[float, float]] = {}
        """Of each bar's last line: when it was printed, and what was done."""
        columns = (
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=16), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("left  {task.fields[note]}", markup=False),
        )  # fmt: skip
        super().__init__(*columns, disable=disable or self._every is not None, speed_estimate_period=3600)

    def stop(self) -> None:
        if not self.disable:  # rich below 14.3 would print an empty line
            super().stop()

    def move(self, bar: TaskID, done: float, *, total: float | None = None, note: str = "") -> None:
        """Show how much is done, out of `total` (None: as before)."""
        self.update(bar, completed=done, total=total, note=note, visible=True)
        if self._every is None:
            return
        (task,) = (task for task in self.tasks if task.id == bar)
        now = time.monotonic()
        printed, before = self._lines.get(bar, (self._began, -1.0))
        ended = task.total is not None and done >= task.total
        if (done == before) if ended else (now - printed < self._every):
            return
        self._lines[bar] = (now, done)
        left = f", {duration(task.time_remaining)} left" if task.time_remaining and not ended else ""
        count = f"{done:g} of {task.total:g}" if task.total is not None else f"{done:g}"
        say(f"{task.description.strip()}: {count}{left}  {note}".rstrip())

    def more(self, bar: TaskID, count: int) -> None:
        """Show that this many more are done."""
        (task,) = (task for task in self.tasks if task.id == bar)
        self.move(bar, task.completed + count)


class FitBars(Bars):
    """One bar for training steps and one for evaluated images; implements `dualproc.engine.fit.Progress`."""

    def __init__(self, *, every: float = LINE_EVERY) -> None:
        super().__init__(every=every)
        self._training = self.add_task("training ", total=None, note="", visible=False)
        self._evaluating = self.add_task("evaluating", total=None, note="", visible=False)
        self._referee: float | None = None

    def step(self, record: StepRecord, total: int) -> None:
        """Show loss, reward and the referee's latest P(wanted answer)."""
        self._referee = self._referee if record.referee is None else record.referee
        self.move(self._training, record.step, total=total, note=step_note(record, self._referee))

    def ending(self) -> None:
        """Confirm Ctrl+C."""
        advice = "press Ctrl+C again to exit at once"
        self.console.print(f"Finishing this training step, then saving and evaluating the LoRA; {advice}.")

    def images(self, done: int, total: int) -> None:
        """Show how many images are done."""
        self.move(self._evaluating, done, total=total)


class BenchBars(Bars):
    """One bar for the training steps of all variants, one for each running fit; and a line when a fit ends."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__(disable=not jobs)
        self._steps = {job: RunFolder(job.folder).saved_step for job in jobs}
        self._running: dict[Job, TaskID] = {}
        self._done = 0
        total, before = sum(job.spec.train.steps for job in jobs), sum(self._steps.values())
        self._all = self.add_task("all fits", total=total, completed=before, note="")

    def show(self, process: RunningJob, *, ending: bool) -> None:
        """Update the bar of a running fit; `ending` if it was asked to end."""
        if (stage := process.stage()) == "waiting":
            return
        job, steps = process.job, process.steps_done()
        if job not in self._running:
            self._running[job] = self.add_task(job.label, total=job.spec.train.steps, completed=steps, note="")
        note = "stopping after this step (press Ctrl+C again to stop at once)" if ending else stage
        self.move(self._running[job], steps, note=note)
        self._show_all(job, steps)

    def done(self, job: Job, sentence: str | None) -> None:
        """Remove the bar of a fit that ended, and print `sentence`; None if the fit was interrupted."""
        if job in self._running:
            self.remove_task(self._running.pop(job))
        if sentence is not None:
            self._done += 1
            self.console.print(printable(sentence), markup=False, highlight=False, soft_wrap=True)
            self._show_all(job, job.spec.train.steps)

    def _show_all(self, job: Job, steps: int) -> None:
        self._steps[job] = steps
        note = f"{self._done} of {len(self._steps)} fits done"
        self.move(self._all, sum(self._steps.values()), note=note)
