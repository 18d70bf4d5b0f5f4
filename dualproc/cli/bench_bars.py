"""Progress bars of `dp bench`: one for all variants, one for each running fit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from dualproc.wording import duration

if TYPE_CHECKING:
    from rich.progress import TaskID

    from .processes import Job, TrainingProcess

_OVERHEAD = 0.25
"""Time for loading and evaluating, as a share of the time for training: a rough value, for the time left."""


class BenchBars:
    """Shows the progress of a bench. Without a terminal, it only prints one line when a fit ends."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False),
        )
        self._jobs, self._done = len(jobs), 0
        self._work = {job: job.spec.train.steps * (1 + _OVERHEAD) for job in jobs}
        """Work per unfinished job, in units of a training step."""
        self._total, self._before, self._started = sum(self._work.values()), 0.0, time.monotonic()
        self._running: dict[Job, TaskID] = {}
        self._steps: dict[Job, int] = {}
        self._all = self._progress.add_task("all variants", total=self._total or 1, note=self._note(0))

    def __enter__(self) -> BenchBars:
        if self._jobs and self._progress.console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, process: TrainingProcess, *, ending: bool) -> None:
        """Update the bar of a running fit; `ending` if it was asked to end."""
        job, steps, total = process.job, process.steps_done(), process.job.spec.train.steps
        if job not in self._running:
            self._running[job] = self._progress.add_task(job.label, total=total, note="")
            self._before += steps  # done in an earlier session: not counted in the speed of this one
        self._steps[job] = steps
        stage = process.stage()
        note = f"training: step {steps} of {total}" if stage == "training" else stage
        note = "stopping after this step (press Ctrl+C again to stop at once)" if ending else note
        self._progress.update(self._running[job], completed=steps, note=note)
        self._show_all()

    def done(self, job: Job, sentence: str | None) -> None:
        """Remove the bar of a fit that ended, and print `sentence`; None if the fit was interrupted."""
        task = self._running.pop(job, None)
        if task is not None:
            self._progress.remove_task(task)
        if sentence is not None:
            self._steps[job] = round(self._work[job])
            self._done += 1
            self._progress.console.print(sentence, markup=False, highlight=False, soft_wrap=True)
        self._show_all()

    def _show_all(self) -> None:
        completed = sum(self._steps.values())
        self._progress.update(self._all, completed=completed, note=self._note(completed))

    def _note(self, completed: float) -> str:
        note = f"{self._done} of {self._jobs} done"
        share = (completed - self._before) / max(self._total - self._before, 1)
        if share < 0.01 or self._done == self._jobs:
            return note
        left = (time.monotonic() - self._started) * (1 - share) / share
        return f"{note}, about {duration(left)} left"
