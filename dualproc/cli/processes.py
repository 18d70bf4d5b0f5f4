"""Training jobs as `dp run` subprocesses: start them, read their progress, end them without losing work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dualproc.errors import RunError
from dualproc.kit.files import read
from dualproc.report.bench import BenchRow, Result
from dualproc.run import RunFolder
from dualproc.run.files import as_run_error, make_folder, open_to_write, read_text, remove
from dualproc.run.folder import METRICS, WEIGHTS
from dualproc.spec import TaskSpec

_DP = "import sys; sys.path.remove(''); from dualproc.cli.processes import run_job; run_job()"
"""Runs `dp`. `python -m dualproc` would also import modules from the current folder, which may hold third-party files
named like a library."""


@dataclass(frozen=True, eq=False)
class Job:
    """One spec and variant to train."""

    file: str
    variant: str | None
    """The value of `--variant`; None if the spec has no variants or names one itself."""
    overrides: tuple[str, ...]
    spec: TaskSpec
    folder: Path
    """The run folder."""
    setting: str = field(default="", kw_only=True)
    """In a sweep, the values from the grid."""
    seed: int | None = field(default=None, kw_only=True)
    """`train.seed` if several are trained."""

    @property
    def label(self) -> str:
        """Such as `line_weight/thin, train.lr=5e-5, seed 1`."""
        return self.row().label

    def row(self, result: Result | None = None, error: str | None = None, *, out: Path | None = None) -> BenchRow:
        """Its row of the table; `out` is the bench's folder."""
        folder = self.folder.relative_to(out).as_posix() if out else ""
        return BenchRow(self.spec.name, self.spec.variant, folder, result, error, self.setting, self.seed)

    @property
    def log(self) -> Path:
        """The output of `dp run`. It is beside the run folder, because a run can fail before it creates its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def error_file(self) -> Path:
        """Where `dp run` writes its error message if it fails with exit code 2."""
        return self.folder.with_name(f".{self.folder.name}.error")

    def command(self) -> list[str]:
        """The `dp run` command that starts or resumes this job."""
        chosen = ["--variant", self.variant] if self.variant else []
        settings = [part for override in self.overrides for part in ("--set", override)]
        return [
            sys.executable, "-c", _DP, str(self.folder), str(self.error_file),
            "run", self.file, *chosen, *settings, "--out", str(self.folder), "--resume",
        ]  # fmt: skip


class RunningJob(ABC):
    """A job that was started, here or on another machine that writes to the same folder."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._weights = job.folder / WEIGHTS
        self._weights_before = stamp(self._weights)

    def steps_done(self) -> int:
        """Training steps so far."""
        return _steps_done(self.job.folder)

    def stage(self) -> str:
        """`waiting` (for a machine), `loading`, `training` or `evaluating`."""
        if stamp(self._weights) != self._weights_before:
            return "evaluating"
        return "training" if self.steps_done() else "loading"

    @abstractmethod
    def poll(self) -> int | None:
        """The exit code; None while it runs."""

    @abstractmethod
    def failure(self) -> str:
        """Why it failed; waits for its end."""

    @abstractmethod
    def end(self, *, at_once: bool) -> None:
        """Ask it to end; call this repeatedly until `poll` returns an exit code. See `TrainingProcess.end`."""

    @abstractmethod
    def kill(self) -> None:
        """End it, wherever it is."""


class TrainingProcess(subprocess.Popen[bytes], RunningJob):
    """A job in a subprocess: it has its own memory, and its failure does not affect other jobs."""

    def __init__(self, job: Job, *, threads: int | None) -> None:
        """Start it with at most `threads` threads (None: no limit). Raises RunError if the log cannot be written."""
        RunningJob.__init__(self, job)
        self._asked_to_end = False
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        make_folder(job.log.parent)
        remove(job.error_file)
        with as_run_error("write", job.log), open_to_write(job.log, "wb") as log:
            subprocess.Popen.__init__(
                self,
                job.command(),
                stdin=subprocess.PIPE,  # never written to: it closes when this process ends, however it ends
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl+C in the terminal must reach only the bench, which then calls `end`
            )

    def end(self, *, at_once: bool) -> None:
        """Ask the process to end; call this repeatedly until `poll` returns an exit code.

        The first call interrupts it, so that it stops and saves a checkpoint after the current training step. A later
        call terminates it as soon as the checkpoint contains all steps, because an unfinished run needs no evaluation.
        With `at_once`, it is terminated immediately, and the steps after its last checkpoint are lost.
        """
        if at_once or _is_saved(self.job.folder):
            self.terminate()
        elif not self._asked_to_end:
            self._asked_to_end = True
            self.send_signal(signal.SIGINT)

    def failure(self) -> str:
        """Why the process failed; waits for its end.

        The message of the error file if there is one, otherwise a signal or the last line of the log.
        """
        code = self.wait()
        if code < 0:
            cause = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"ended by signal {signal.Signals(-code).name}{cause}"
        if code == 130:
            return "interrupted from outside; the next `dp bench` resumes it"
        text = f"exit code {code}"
        with suppress(OSError, RunError):  # deleted in the meantime, with the folder around them
            if code == 2 and self.job.error_file.is_file():
                return read_text(self.job.error_file).strip()
            text = read(self.job.log).decode("utf-8", errors="replace").strip() or text
        return text.splitlines()[-1]


def run_job() -> None:
    """What the subprocess runs: `dp run`, which ends after its training step if its bench is gone.

    Arguments: the run folder, the error file, then those of `dp`. The bench holds the other end of stdin.
    """
    from . import main

    bench = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # for plugins that ask something
    threading.Thread(target=_end_after, args=(bench, Path(sys.argv.pop(1))), daemon=True).start()
    main(error_file=sys.argv.pop(1))


def _end_after(bench: BinaryIO, folder: Path) -> None:
    """Wait until the other end of `bench` is closed, then end this process as `TrainingProcess.end` does."""
    bench.read()
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        time.sleep(0.2)
        if _is_saved(folder):
            os.kill(os.getpid(), signal.SIGTERM)


def _steps_done(folder: Path) -> int:
    """Training steps so far: the metrics have one line per step."""
    try:
        return read(folder / METRICS).count(b"\n")
    except OSError:  # not there yet, or not a file: then the fit ends with an error
        return 0


def _is_saved(folder: Path) -> bool:
    """Whether the newest checkpoint of a run contains all its steps: no more is lost if it ends now."""
    return RunFolder(folder).saved_step == _steps_done(folder)


def threads_each(jobs: int) -> int | None:
    """CPU threads for each of `jobs` processes; None for a single process, where torch decides."""
    if jobs == 1:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (int(given) if given.isdecimal() else available) // jobs)


@contextmanager
def interrupts(*names: str) -> Iterator[Callable[[], int]]:
    """Within, signals do not interrupt; the yielded function counts them.

    Without `names`: Ctrl+C, SIGTERM and a closed terminal.
    """
    count = 0

    def handle(_signal: int, _frame: Any) -> None:
        nonlocal count
        count += 1

    counted = [name for name in names or ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), handle) for name in counted}
    try:
        yield lambda: count
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def stamp(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 if it does not exist."""
    return path.stat().st_mtime_ns if path.exists() else 0
