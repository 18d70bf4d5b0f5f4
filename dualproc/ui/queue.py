"""Fits started from the page: each in a process of its own, one at a time; the others wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dualproc.cli.processes import Job, TrainingProcess
from dualproc.errors import DualprocError, RunError
from dualproc.run import RunFolder, portable
from dualproc.run.files import make_folder, write_atomically
from dualproc.run.folder import RESOLVED
from dualproc.run.lock import holder, refuse_locked, stop_holder
from dualproc.run.resolved import task
from dualproc.spec import TaskSpec
from dualproc.wording import duration

from .runs import find_runs

POLL = 0.5
"""Seconds between two checks of the running fit."""
OTHER_NAME = "give the task another name, or delete this run on the page Runs"
"""What to do if the run folder of a task has a run of another spec."""


@dataclass(eq=False)
class Fit:
    """One fit of the page, and how it is going."""

    job: Job
    state: str = "waiting"
    """`waiting`, `running`, `stopping`, `finished`, `stopped` or `failed`."""
    message: str = ""
    """Why it failed."""
    process: TrainingProcess | None = field(default=None, repr=False)

    @property
    def over(self) -> bool:
        """Whether nothing runs or waits any more."""
        return self.state in ("finished", "stopped", "failed")


class Queue:
    """The fits of one runs folder, each a `dp run` of its own.

    They outlive the page. When the server ends, the running fit ends after its training step, with a checkpoint.
    """

    def __init__(self, runs: Path, before_start: Callable[[], None] = lambda: None) -> None:
        """`before_start` is called before a fit is started, to release memory."""
        self.runs = runs
        self.fits: list[Fit] = []
        self._stopped: set[tuple[Path, int]] = set()
        """Run folders and the processes that were asked to stop them, which were started elsewhere."""
        self._before_start = before_start
        self._lock = threading.Lock()

    def add(self, text: str, spec: TaskSpec, variant: str | None) -> Fit:
        """Queue the fit of a spec, or continue its run; its text is kept beside the run folder.

        Raises RunError if the folder has a run of another spec, is in use, or cannot be written.
        """
        folder = self.runs / spec.name / (spec.variant or "")
        with self._lock:
            if any(fit.job.folder == folder and not fit.over for fit in self.fits):
                raise RunError(f"{folder} is already in the queue")
            resolved = portable(spec, folder).text
            if (folder / RESOLVED).is_file():  # with a hint for this page; `refuse` is for the library
                RunFolder(folder).refuse_changes(resolved, OTHER_NAME, training=True)
            RunFolder.refuse(folder, resolved, resume=True, overwrite=False)
            file = self.runs / "specs" / f"{spec.label.replace('/', '.')}.queued.yaml"
            make_folder(file.parent)
            write_atomically(file, text)
            fit = Fit(Job(str(file), variant, (), spec, folder))
            self.fits = [one for one in self.fits if one.job.folder != folder] + [fit]
        self.poll()
        return fit

    def stop(self, folder: Path) -> str:
        """Stop the fit of a run folder after its current training step, or take it out of the queue; what was done."""
        with self._lock:
            fit = self._active(folder)
            if fit is None:
                return self._stop_elsewhere(folder)
            if fit.state == "waiting":
                fit.state = "stopped"
                return "taken out of the queue"
            if fit.process is not None and fit.state == "running":
                fit.state = "stopping"
                fit.process.end(at_once=False)
            return "stopping after this training step; the LoRA so far is then saved and evaluated"

    def poll(self) -> None:
        """Note which fit has ended, and start the next one if no run of the folder is being written."""
        with self._lock:
            for fit in self.fits:
                if fit.process is not None and not fit.over and fit.process.poll() is not None:
                    self._end(fit, fit.process)
            if any(fit.state in ("running", "stopping") for fit in self.fits):
                return
            waiting = next((fit for fit in self.fits if fit.state == "waiting"), None)
            if waiting is None or self.in_use():
                return
            self._before_start()
            try:
                waiting.process = TrainingProcess(waiting.job, threads=None)
                waiting.state = "running"
            except DualprocError as error:
                waiting.state, waiting.message = "failed", str(error)

    def watch(self) -> None:
        """Poll for ever, in a thread of its own."""

        def loop() -> None:
            while True:
                with suppress(OSError, RunError):  # a folder that vanished, a full disk: the next poll may work
                    self.poll()
                time.sleep(POLL)

        threading.Thread(target=loop, daemon=True).start()

    def in_use(self) -> Path | None:
        """A run of the folder that is being written, by the fit of this queue or another process; None if none is."""
        ours = next((fit.job.folder for fit in self.fits if fit.process is not None and not fit.over), None)
        return ours or next((folder for folder in find_runs(self.runs) if is_locked(folder)), None)

    def status(self, folder: Path) -> str:
        """One line about a run folder: its fit in this queue, or what the folder itself says."""
        fit = next((one for one in self.fits if one.job.folder == folder), None)
        if fit is None or fit.state == "finished":
            return _of_folder(folder)
        if fit.state == "waiting":
            running = next((one.job.spec.label for one in self.fits if one.process and not one.over), None)
            return f"waiting for {running or self.in_use() or 'its turn'}: one fit runs at a time"
        if fit.state == "failed":
            return f"failed: {fit.message}"
        if fit.state == "stopped":
            return _of_folder(folder)
        stage = fit.process.stage() if fit.process is not None else "loading"
        ending = "stopping after this step; " if fit.state == "stopping" else ""
        left = stage == "training" and not ending
        return f"{ending}{stage}: {_steps(folder, fit.job.spec.train.steps, left=left)}"

    def progress(self, folder: Path) -> float:
        """Share of the training steps that are done, from 0 to 1."""
        fit = self._active(folder)  # it may have more training steps than the run that it continues
        total = fit.job.spec.train.steps if fit is not None else _planned(folder)
        return min(1.0, len(RunFolder(folder).metrics()) / total) if total else 0.0

    def _stop_elsewhere(self, folder: Path) -> str:
        """Stop a `dp run` that was started in a terminal of this machine."""
        if not is_locked(folder):
            return "nothing to stop: this run is not being trained"
        if len(RunFolder(folder).metrics()) >= _planned(folder):
            return "nothing to stop: all training steps are done, it is being evaluated"
        process = holder(folder)
        if (folder, process) not in self._stopped:  # a second signal would end it at once
            stop_holder(folder)
            self._stopped.add((folder, process))
        return "stopping after this training step; the LoRA so far is then saved and evaluated"

    def _active(self, folder: Path) -> Fit | None:
        return next((fit for fit in self.fits if fit.job.folder == folder and not fit.over), None)

    def _end(self, fit: Fit, process: TrainingProcess) -> None:
        code = process.wait()
        if code == 0:
            fit.state = "finished"
        elif code == 130 or (fit.state == "stopping" and code < 0):
            fit.state = "stopped"
        else:
            fit.state, fit.message = "failed", process.failure()


def is_locked(folder: Path) -> bool:
    """Whether a process is writing a run."""
    try:
        refuse_locked(folder)
    except RunError:
        return True
    return False


def _planned(folder: Path) -> int:
    return task(RunFolder(folder).resolved).steps if (folder / RESOLVED).is_file() else 0


def _steps(folder: Path, total: int, *, left: bool = True) -> str:
    """Steps done and, if asked, the time left at the speed of the last ones."""
    records = RunFolder(folder).metrics() if (folder / RESOLVED).is_file() else []
    text = f"{len(records)} of {total} training steps"
    last = records[-20:]
    if left and last and len(records) < total:
        seconds = sum(record.seconds for record in last) / len(last) * (total - len(records))
        text += f", about {duration(seconds)} left"
    return text


def _of_folder(folder: Path) -> str:
    if not (folder / RESOLVED).is_file():
        return "no run yet"
    run, total = RunFolder(folder), _planned(folder)
    if is_locked(folder):
        return f"training in another process: {_steps(folder, total)}"
    outcome = run.read_outcome()
    if outcome is None:
        return f"unfinished: {len(run.metrics())} of {total} training steps; resume it from step {run.saved_step}"
    if outcome.stopped:
        return f"{outcome.stopped}; the LoRA so far is saved" + (
            "; resume it to continue" if outcome.interrupted else ""
        )
    return f"finished: {outcome.steps} training steps in {duration(outcome.seconds)}"
