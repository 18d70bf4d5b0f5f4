"""Fits in processes of their own: started, watched through their run folders, ended without losing what they did."""

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


_DP = "import sys; sys.path.remove(''); from dualproc.cli import main; main()"
"""`dp`, and not `python -m dualproc`, which would import what lies beside a stranger's spec under a library's name."""


@dataclass(frozen=True, eq=False)
class Job:
    """One spec and variant to be run."""

    file: str
    variant: str | None
    """To be chosen on the command line; None if there is nothing to choose."""
    overrides: tuple[str, ...]
    spec: TaskSpec
    folder: Path
    """Where the run goes."""

    @property
    def label(self) -> str:
        """`line_weight/thin`."""
        return self.spec.label

    @property
    def log(self) -> Path:
        """What `dp run` prints; beside the run folder, which may never come to be."""
        return self.folder.with_name(f"{self.folder.name}.log")

    def command(self) -> list[str]:
        """The `dp run` that does it, from where it stands."""
        chosen = ["--variant", self.variant] if self.variant else []
        settings = [part for override in self.overrides for part in ("--set", override)]
        return [
            sys.executable, "-c", _DP, "run", self.file, *chosen, *settings, "--out", str(self.folder),
            "--resume",
        ]  # fmt: skip


class Fit:
    """A job in a process of its own, so that its memory is its own and its end cannot take others with it."""

    def __init__(self, job: Job, *, threads: int | None) -> None:
        """Start it; `threads` limits how many it computes with. RunError if its log cannot be written."""
        from dualproc.run.files import as_run_error, make_folder
        from dualproc.run.folder import METRICS, WEIGHTS

        self.job, self.started = job, time.monotonic()
        self._metrics, self._weights = job.folder / METRICS, job.folder / WEIGHTS
        self._weights_before = _stamp(self._weights)
        self._asked_to_end = False
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        make_folder(job.log.parent)
        with (
            as_run_error("write", job.log),
            job.log.open("wb") as log,
        ):  # a session of its own: the terminal's Ctrl+C is ours to pass on
            self._process = subprocess.Popen(
                job.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it goes on."""
        return self._process.poll()

    def steps_done(self) -> int:
        """Steps so far; every step is a line of the metrics."""
        try:
            return self._metrics.read_bytes().count(b"\n")
        except OSError:  # not there yet
            return 0

    def stage(self) -> str:
        """`loading`, `teaching` or `measuring`."""
        if _stamp(self._weights) != self._weights_before:
            return "measuring"
        return "teaching" if self.steps_done() else "loading"

    def kill(self) -> None:
        """End it at once, whatever it is doing; its checkpoints survive that."""
        self._process.kill()

    def end(self, *, at_once: bool) -> None:
        """Bring it to an end; call it again until `poll` has an exit code.

        It is asked to end after the current step, and ended when all its steps are in a checkpoint, so that nothing is
        lost and no time goes into measuring what is not finished. With `at_once`, steps since the last checkpoint are.
        """
        from dualproc.run import RunFolder

        if at_once or RunFolder(self.job.folder).saved_step == self.steps_done():
            self._process.terminate()
        elif not self._asked_to_end:
            self._asked_to_end = True
            self._process.send_signal(signal.SIGINT)

    def failure(self) -> str:
        """Why it failed, from its exit code and the end of its log."""
        code = self._process.wait()
        if code < 0:
            return f"ended by signal {signal.Signals(-code).name}" + (
                " (out of memory?)" if code == -signal.SIGKILL else ""
            )
        if code == 130:
            return "interrupted from outside; the next `dp bench` goes on with it"
        text = self.job.log.read_text(encoding="utf-8", errors="replace")
        _, found, message = text.rpartition("error: ")
        if code == 2 and found:
            return message.strip()
        return next((line for line in reversed(text.splitlines()) if line.strip()), f"exit code {code}")


def threads_each(jobs: int) -> int | None:
    """How many threads each of `jobs` fits may compute with; None (torch decides) if there is but one."""
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
