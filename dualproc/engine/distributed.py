"""One fit in several processes, started by `torchrun` or `accelerate launch`: what they tell each other.

Every process draws the whole batch by the same rule, computes its share, and adds up gradients with the others. So the
LoRA is the same in all of them, and only the first one writes.
"""

from __future__ import annotations

import functools
import itertools
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from dualproc.errors import DualprocError, RunError
from dualproc.kit.devices import first_gpu
from dualproc.run.files import keep_aside
from dualproc.wording import cause

if TYPE_CHECKING:
    import torch.distributed
    from torch import Tensor

T = TypeVar("T")
_WAIT = timedelta(days=7)
"""Others wait this long while the first process evaluates. If a process dies, the launcher ends all of them."""


class Processes:
    """The processes of one fit, as one of them sees them; by default a single one, which waits for nothing.

    All processes call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        """Process `rank` of `count`."""
        self.rank, self.count, self.lost = rank, count, False
        """`lost`: another process has ended, so nothing can be exchanged any more."""

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def parts(self, batch: int, accumulate: int) -> list[slice]:
        """The images of a batch that this process computes, in at most `accumulate` parts, one after another.

        Raises DualprocError if there are more processes than images.
        """
        if batch < self.count:
            hint = "raise `train.batch`, or start fewer processes"
            raise DualprocError(f"train.batch is {batch}, but the fit has {self.count} processes", hint=hint)
        mine = self.share(batch)
        return [slice(*part) for part in _split(mine.start, mine.stop, min(accumulate, mine.stop - mine.start))]

    def share(self, count: int) -> slice:
        """The part of `count` things that this process computes; empty where there are more processes than things."""
        return slice(*_split(0, count, self.count)[self.rank])

    @contextmanager
    def summed(self, weights: Sequence[Tensor], totals: Tensor) -> Iterator[None]:
        """On leaving, the gradients of `weights`, and `totals` [N], are the sums over all processes, in place.

        An error in one process is raised in all of them.
        """
        if self.count == 1:
            yield
            return
        import torch

        error = None
        try:
            yield
        except Exception as caught:
            error = caught
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        failed = totals.new_tensor([float(error is not None)])
        flat = torch.cat([part.flatten().float() for part in (*gradients, totals, failed)])
        with self._connected():
            torch.distributed.all_reduce(flat)
        if flat[-1].item():
            self._raise(error)
        start = 0
        for part in (*gradients, totals):
            part.copy_(flat[start : start + part.numel()].view_as(part))
            start += part.numel()

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Within, an error in one process is raised in all of them, when they have left."""
        if self.count == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as caught:
            if self.lost:
                raise
            error = caught
        if any(self.gather(error is not None)):
            self._raise(error)

    def gather(self, value: T) -> list[T]:
        """The value of every process."""
        if self.count == 1:
            return [value]
        import torch.distributed

        values: list[T | None] = [None] * self.count
        with self._connected():
            torch.distributed.all_gather_object(values, value, group=_control())
        return cast("list[T]", values)

    def collected(self, make: Callable[[], T]) -> list[T]:
        """What `make` returns in each process, in all of them; an error in one is raised in all."""
        with self.agreed():
            value = make()
        return self.gather(value)

    def from_first(self, value: T) -> T:
        """The value of the first process."""
        if self.count == 1:
            return value
        import torch.distributed

        values = [value if self.first else None]
        with self._connected():
            torch.distributed.broadcast_object_list(values, src=0, group=_control())
        return cast("T", values[0])

    def decided(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all of them; the others do not call it."""
        value = None
        with self.agreed():
            if self.first:
                value = make()
        return cast("T", self.from_first(value))

    def _raise(self, error: Exception | None) -> None:
        """Raise this process's error, or one that names the process that has one."""
        said = self.gather(None if error is None else _said(error))
        if error is not None:
            raise error
        rank, (message, hint) = next((rank, text) for rank, text in enumerate(said) if text is not None)
        raise DualprocError(f"process {rank} of {self.count} failed: {message}", hint=hint)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self.lost = True
            hint = "the launcher reports which one; `resume=True` continues from the last checkpoint"
            raise RunError("another process of this fit has ended", hint=hint) from error


def launched() -> int:
    """The number of processes that a launcher has started, as the environment says; 1 without a launcher.

    Raises DualprocError if what it says is not of one of several processes.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
        return 1
    rank, count, port = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    numbers = rank.isdecimal() and count.isdecimal() and port.isdecimal()
    if not numbers or int(rank) >= int(count):
        raise DualprocError(
            f"expected the environment of a launcher, got RANK={rank} WORLD_SIZE={count} MASTER_PORT={port}",
            hint="for a fit in several processes, use torchrun; otherwise `unset RANK WORLD_SIZE`",
        )
    return int(count)


@functools.cache
def processes() -> Processes:
    """The processes that a launcher started, connected by the first call; a single one without a launcher.

    Raises DualprocError as `launched` does, and if the others cannot be reached.
    """
    if launched() == 1:
        return Processes()
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(first_gpu()[0])
    if not torch.distributed.is_initialized():
        try:
            torch.distributed.init_process_group(timeout=_WAIT)  # gloo between CPUs, NCCL between GPUs
        except (RuntimeError, ValueError) as error:
            first = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            hint = "start the fit with torchrun; for a fit in one process, `unset RANK WORLD_SIZE`"
            raise DualprocError(
                f"cannot connect to the processes of this fit at {first}: {cause(error)}", hint=hint
            ) from error
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size())


@functools.cache
def _control() -> torch.distributed.ProcessGroup:
    """For everything but gradients: through main memory, also where models are on GPUs."""
    import torch

    group = torch.distributed.new_group(backend="gloo", timeout=_WAIT)
    assert isinstance(group, torch.distributed.ProcessGroup)  # every process is a member
    return group


def _split(start: int, end: int, count: int) -> list[tuple[int, int]]:
    """A range in `count` parts, of which none has more than one more than another."""
    edges = [start + (end - start) * index // count for index in range(count + 1)]
    return list(itertools.pairwise(edges))


def _said(error: Exception) -> tuple[str, str | None]:
    """Message and hint for the first process, which prints them; the traceback goes to a temporary file."""
    if isinstance(error, DualprocError):
        return error.message, error.hint
    file = keep_aside("".join(traceback.format_exception(error)), "traceback.txt")
    said = " ".join(f"{type(error).__name__}: {error}".split())[:400]
    return said, f"fix the cause, then continue with `resume=True` (traceback: {file})"
