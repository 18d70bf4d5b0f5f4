"""Training jobs as Ray tasks: each runs the same `dp run` subprocess, on a node that has room. Imported on use.

All nodes write to the same folder. If a node dies, Ray starts its tasks again on others, where they resume from their
last checkpoints.
"""

from __future__ import annotations

import math
import os
import platform
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualproc import __version__
from dualproc.errors import DualprocError, RunError
from dualproc.run.files import make_folder, remove, write_atomically
from dualproc.run.lock import refuse_locked
from dualproc.wording import cause, number, plural

from .memory import MARGIN
from .output import print_progress, print_warning, say
from .processes import Job, RunningJob, TrainingProcess, interrupts, stamp

if TYPE_CHECKING:
    from dualproc.plan.dry_run import Observed, Plan

RETRIES = 20
"""How often a fit is started again after its node has died."""
_LOCKED = 600.0
"""Seconds to wait for a run folder that is in use: on a node that Ray has lost, the fit may still finish its step."""
_POLL = 0.2
"""Seconds between two checks of the subprocess."""
_REACH = 10.0
"""Seconds to wait for the machine of an address."""
_LIBRARIES = 1e9
"""Main memory that Python and the libraries take, besides tensors: 1.0 GB in a fit of the shipped models."""
_CONTEXT = 0.6e9
"""GPU memory that a process takes besides tensors."""
_STORE = 100 * 1024**2
"""Bytes of the object store of a Ray of its own: no data passes through it."""


@dataclass(frozen=True)
class Needs:
    """What one fit takes of a node."""

    cpus: int
    gpus: float
    """1 and more, or a share of one, such as .5."""
    memory: int
    """Bytes of main memory; 0 if it is not known."""

    def __str__(self) -> str:
        gpu = "" if not self.gpus else f"{plural(int(self.gpus), 'GPU')}" if self.gpus >= 1 else f"{self.gpus:g} GPU"
        memory = f"{number(self.memory / 1e9)} GB of main memory" if self.memory else ""
        return ", ".join(filter(None, (plural(self.cpus, "CPU"), gpu, memory)))

    def fits(self, node: Mapping[str, float]) -> bool:
        """Whether an empty node with these resources has room for it."""
        needed = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory}
        return all(amount <= node.get(name, 0) for name, amount in needed.items())


def gpu_share(peak: float, memory: float | None) -> float:
    """1, 1/2, 1/3, ...: the part of a GPU with `memory` bytes (None: unknown) that a fit with this peak takes."""
    count = 1 if memory is None else int(memory * MARGIN // (peak + _CONTEXT))
    return math.floor(10_000 / max(1, count)) / 10_000  # Ray counts in steps of 1/10,000


def gpu_memory(nodes: Sequence[Mapping[str, float]]) -> float | None:
    """Bytes of the smallest GPU of these nodes, by Ray's names for their types; None if a type is not known."""
    from dualproc.plan.hardware import GPUS

    sizes = []
    for node in nodes:
        if not node.get("GPU"):
            continue
        kinds = [name.partition(":")[2].lower() for name in node if name.startswith("accelerator_type:")]
        known = [card.memory for name, card in GPUS.items() for kind in kinds if name in (kind, f"{kind}-40gb")]
        if not known:
            return None
        sizes.append(min(known) * 1e9)
    return min(sizes, default=None)


def needs_of(plan: Plan, *, cpus: int, gpu_bytes: float | None) -> Needs:
    """What a fit with this plan takes; `gpu_bytes` is the memory of a GPU, None if unknown."""
    on_gpu = {place: memory.peak for place, memory in plan.memory.items() if place.startswith("cuda")}
    elsewhere = sum(memory.peak for place, memory in plan.memory.items() if place not in on_gpu)
    gpus = gpu_share(next(iter(on_gpu.values())), gpu_bytes) if len(on_gpu) == 1 else float(len(on_gpu))
    return Needs(cpus, gpus, round(elsewhere + _LIBRARIES))


def plan_needs(jobs: Sequence[Job], nodes: Sequence[Mapping[str, float]]) -> dict[Job, Needs]:
    """What every job takes, by `dp plan`: one plan for all variants and seeds of a spec."""
    from .progress import quiet

    quiet()
    from dualproc.plan.dry_run import dry_run

    given = os.environ.get("OMP_NUM_THREADS", "")
    cpus = int(given) if given.isdecimal() and int(given) else 1
    gpu, size = any(node.get("GPU") for node in nodes), gpu_memory(nodes)
    planned: dict[tuple[str, ...], Needs] = {}
    observed: dict[str, Observed] = {}
    found = {}
    for job in jobs:
        key = (job.file, *(given for given in job.overrides if not given.startswith("train.seed=")))
        if key not in planned:
            print_progress(f"{job.spec.label}: planning what a fit takes")
            try:
                plan = dry_run(job.spec, gpu=gpu, known=observed)
                planned[key] = needs_of(plan, cpus=cpus, gpu_bytes=size)
            except DualprocError as error:  # what cannot be planned may still train
                print_warning(f"{job.spec.label}: memory is not known: {error.message}")
                planned[key] = Needs(cpus, float(gpu), 0)
        found[job] = planned[key]
    return found


@contextmanager
def starting_on(address: str, out: Path, jobs: Sequence[Job]) -> Iterator[Callable[[Job], RunningJob]]:
    """Connect to a Ray cluster; yields a function that submits a job. At the end, what still runs is ended.

    Raises DualprocError if Ray cannot be reached. The yielded job's `poll` raises it if a node does not see the
    folder `out`, or the current folder, or has another version of dualproc.
    """
    ray = _connected(address)
    mark = Path(os.path.abspath(out)) / f".ray-{uuid.uuid4().hex}"
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        total = {name: sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
        counts = f"{plural(int(total['CPU']), 'CPU')}, {plural(int(total['GPU']), 'GPU')}"
        say(f"Ray at {address}: {plural(len(nodes), 'node')}, {counts}")
        needs = plan_needs(jobs, nodes)
        for need, job in {needs[job]: job for job in jobs}.items():
            say(f"  {job.spec.label}: {need} for each fit")
            if not any(need.fits(node) for node in nodes):
                print_warning(f"no node of the cluster has {need}: {job.spec.label} waits until one does")
        make_folder(mark.parent)
        write_atomically(mark, "", durable=False)
        yield lambda job: RayJob(ray, job, needs[job], mark)
    finally:
        ray.shutdown()
        remove(mark)


def _connected(address: str) -> Any:
    """The module `ray`, connected."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    hint = (
        "give the HOST:PORT that `ray start --head` printed, or use `--ray local`; if the cluster has a token, set "
        "RAY_AUTH_MODE=token (see docs/scale.md)"
    )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    try:
        if colon and port.isdecimal():  # Ray would try for a minute
            socket.create_connection((host, int(port)), timeout=_REACH).close()
        if address == "local":
            ray.init("local", include_dashboard=False, object_store_memory=_STORE, **_SILENT)
        else:
            ray.init(address, **_SILENT)
    except Exception as error:  # ConnectionError, ValueError, RuntimeError for other versions of Ray or Python
        raise DualprocError(f"cannot reach Ray at `{address}`: {cause(error)}", hint=hint) from error
    return ray


_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a fit without a GPU sees none
}
_SILENT: Mapping[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class RayJob(RunningJob):
    """A job as a Ray task."""

    def __init__(self, ray: Any, job: Job, needs: Needs, mark: Path) -> None:
        """Submit it; it waits until a node has room. `mark` is a file in the shared folder."""
        super().__init__(job)
        self._ray, self._log_before = ray, stamp(job.log)
        self._ended: tuple[int, str] | None = None
        self._asked = False
        sent = replace(job, folder=mark.parent / os.path.relpath(job.folder, mark.parent))
        task = ray.remote(train).options(
            num_cpus=needs.cpus, num_gpus=needs.gpus, memory=needs.memory or None, max_retries=RETRIES, name=job.label
        )
        self._task = task.remote(sent, mark, os.getcwd(), needs.cpus, __version__)

    def stage(self) -> str:
        """`waiting` until a node starts it, then as for any job."""
        return super().stage() if stamp(self.job.log) != self._log_before else "waiting"

    def poll(self) -> int | None:
        """The exit code; None while it waits or runs. Raises DualprocError if a node cannot run any job."""
        if self._ended is None and self._ray.wait([self._task], timeout=0)[0]:
            self._ended = self._result()
        return self._ended[0] if self._ended else None

    def _result(self) -> tuple[int, str]:
        try:
            code, text = self._ray.get(self._task)
        except self._ray.exceptions.TaskCancelledError:
            return 130, "interrupted"
        except Exception as error:  # its nodes died too often, or dualproc is not installed there
            return 1, f"{cause(getattr(error, 'cause', None) or error).rstrip('.')}. The same command resumes it."
        if code is None:
            raise DualprocError(text, hint=_SHARED)
        return code, text

    def failure(self) -> str:
        """Why it failed; waits for its end."""
        while self.poll() is None:
            time.sleep(_POLL)
        return self._ended[1] if self._ended else ""

    def end(self, *, at_once: bool) -> None:
        """Cancel the task: its process ends after the current training step, or with `at_once` immediately."""
        if at_once:
            self.kill()
        elif not self._asked:
            self._asked = True
            self._ray.cancel(self._task)

    def kill(self) -> None:
        """Kill the task's process."""
        self._ray.cancel(self._task, force=True)


_SHARED = (
    "every node needs this version of dualproc, and the same folder on a shared disk: start the command in such a "
    "folder, with `--out` there"
)


def train(job: Job, mark: Path, current: str, threads: int, version: str) -> tuple[int | None, str]:
    """The Ray task: run a job as `dp run` on this node. Returns its exit code, and why it failed.

    The code is None if this node can run no job: it does not see `mark`, a file in the folder of the results, or the
    `current` folder of the command, or it has another version of dualproc.
    """
    node = f"the Ray node {platform.node()}"
    if version != __version__:
        return None, f"{node} has dualproc {__version__}, and not {version}"
    for place in (mark, Path(current)):
        if not place.exists():
            return None, f"{node} does not see the folder {place if place != mark else mark.parent}"
    os.chdir(current)
    with interrupts("SIGINT") as interrupted:  # what `ray.cancel` sends
        _wait_until_free(job.folder, interrupted)
        if interrupted():
            return 130, "interrupted"
        try:
            process = TrainingProcess(job, threads=threads)
        except RunError as error:
            return 2, str(error)
        while process.poll() is None:
            if interrupted():
                process.end(at_once=False)
            time.sleep(_POLL)
        code = process.wait()
        return code, process.failure() if code else ""


def _wait_until_free(folder: Path, interrupted: Callable[[], int]) -> None:
    """Wait while the run is in use, for `_LOCKED` seconds at most; after that, `dp run` gives the message."""
    deadline = time.monotonic() + _LOCKED
    while time.monotonic() < deadline and not interrupted():
        try:
            return refuse_locked(folder)
        except RunError:
            time.sleep(1)
    return None
