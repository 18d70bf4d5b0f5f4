"""`dp run` in processes of its own: started, followed through their run folders, ended without losing work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualproc.spec import TaskSpec


_DP = "import sys; sys.path.remove(''); from dualproc.cli import main; main(error_file=sys.argv.pop(1))"
"""`dp`. Not `python -m dualproc`, which would import modules beside a third-party spec that are named as a library."""


@dataclass(frozen=True, eq=False)
class Job:
    """One spec and variant to be run."""

    file: str
    variant: str | None
    """The variant to choose on the command line; None if the spec needs no choice."""
    overrides: tuple[str, ...]
    spec: TaskSpec
    folder: Path
    """The run folder."""

    @property
    def label(self) -> str:
        """`line_weight/thin`."""
        return self.spec.label

    @property
    def log(self) -> Path:
        """What `dp run` prints. Beside the run folder, because a failing run may never make its folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def error_file(self) -> Path:
        """The message of the error that `dp run` ended with, if any."""
        return self.folder.with_name(f".{self.folder.name}.error")

    def command(self) -> list[str]:
        """The `dp run` that does this job, or continues it."""
        chosen = ["--variant", self.variant] if self.variant else []
        settings = [part for override in self.overrides for part in ("--set", override)]
        return [
            sys.executable, "-c", _DP, str(self.error_file), "run", self.file, *chosen, *settings, "--out",
            str(self.folder), "--resume",
        ]  # fmt: skip


class TrainingProcess:
    """A job in a process of its own, so that it has its own memory and its end does not affect others."""

    def __init__(self, job: Job, *, threads: int | None) -> None:
        """Start it, with at most `threads` threads. Raises RunError if its log cannot be written."""
        from dualproc.run.files import as_run_error, make_folder, remove
        from dualproc.run.folder import METRICS, WEIGHTS

        self.job, self.started = job, time.monotonic()
        self._metrics, self._weights = job.folder / METRICS, job.folder / WEIGHTS
        self._weights_before = _stamp(self._weights)
        self._asked_to_end = False
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        make_folder(job.log.parent)
        remove(job.error_file)
        with (
            as_run_error("write", job.log),
            job.log.open("wb") as log,
        ):  # a session of its own: Ctrl+C reaches only this process, which passes it on
            self._process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self._process.poll()

    def steps_done(self) -> int:
        """Training steps so far: one line of the metrics each."""
        try:
            return self._metrics.read_bytes().count(b"\n")
        except OSError:  # no metrics yet
            return 0

    def stage(self) -> str:
        """`loading`, `training` or `evaluating`."""
        if _stamp(self._weights) != self._weights_before:
            return "evaluating"
        return "training" if self.steps_done() else "loading"

    def kill(self) -> None:
        """Kill it; its checkpoints stay intact."""
        self._process.kill()

    def end(self, *, at_once: bool) -> None:
        """End it; call this again until `poll` returns an exit code.

        The process is asked to end after the current step, and terminated once a checkpoint has all its steps: nothing
        is lost, and no time goes into evaluating an unfinished run. With `at_once`, steps since the last checkpoint are
        lost.
        """
        from dualproc.run import RunFolder

        if at_once or RunFolder(self.job.folder).saved_step == self.steps_done():
            self._process.terminate()
        elif not self._asked_to_end:
            self._asked_to_end = True
            self._process.send_signal(signal.SIGINT)

    def failure(self) -> str:
        """Why it failed: its error message, or else the last line of its log."""
        code = self._process.wait()
        if code < 0:
            return f"ended by signal {signal.Signals(-code).name}" + (
                " (out of memory?)" if code == -signal.SIGKILL else ""
            )
        if code == 130:
            return "interrupted from outside; the next `dp bench` goes on with it"
        if code == 2 and self.job.error_file.is_file():
            return self.job.error_file.read_text(encoding="utf-8").strip()
        text = self.job.log.read_text(encoding="utf-8", errors="replace")
        return next((line for line in reversed(text.splitlines()) if line.strip()), f"exit code {code}")


def threads_each(jobs: int) -> int | None:
    """How many threads each of `jobs` processes may use; None (torch decides) if there is only one."""
    if jobs == 1:
        return None
    given = os.environ.get("OMP_NUM_THREADS", "")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (int(given) if given.isdecimal() else available) // jobs)


@contextmanager
def interrupts() -> Iterator[Callable[[], int]]:
    """Within, Ctrl+C (also SIGTERM and the terminal's closing) interrupts nothing, but is counted."""
    count = 0

    def handle(_signal: int, _frame: Any) -> None:
        nonlocal count
        count += 1

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), handle) for name in names}
    try:
        yield lambda: count
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
