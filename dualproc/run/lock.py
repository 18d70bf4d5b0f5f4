"""One writer per run folder: a lock that the operating system releases when its holder ends, however it ends."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dualproc.errors import RunError

from .files import as_run_error, is_plain_file, read_text, refuse_links, write_atomically

LOCK = ".lock"
HOLDER = ".lock-holder"
"""Who holds the lock, for messages. A file of its own: on Windows, a locked file cannot be read."""
_WAIT = 0.2
"""Seconds. `refuse_locked` holds a lock for a moment to see whether it is free: that is not a run."""


class FolderLock:
    """Held from creation to `release()`, or to the end of the process.

    Raises RunError if another process (or another lock in this one) holds the folder. On disks without locks, nothing
    is refused.
    """

    def __init__(self, folder: Path, *, links: bool = False) -> None:
        """`links` allows folders in it that are links: for a folder of many runs, whose own locks refuse them."""
        if not links:
            refuse_links(folder)
        self._holder = folder / HOLDER
        self._lock = FileLock(folder / LOCK, thread_local=False)
        with as_run_error("lock", folder):
            _acquire(self._lock, folder)
        if self._lock.is_locked:
            holder = f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
            write_atomically(self._holder, holder, durable=False)

    def release(self, *, undo: bool = False) -> None:
        """Let others write. The lock file stays: deleting it would let two writers lock two files.

        With `undo`, a folder that has nothing else is removed: the caller made it, and wrote nothing.
        """
        folder = self._holder.parent
        with suppress(OSError):
            self._holder.unlink(missing_ok=True)
            if undo and [file.name for file in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                folder.rmdir()
        self._lock.release()


def refuse_locked(folder: Path) -> None:
    """Raise the RunError of `FolderLock` if another process holds the folder; a folder never locked is not touched."""
    if is_plain_file(folder / LOCK) and os.access(folder / LOCK, os.W_OK):
        lock = FileLock(folder / LOCK, thread_local=False)
        with suppress(OSError):  # not lockable: writing to the folder will raise the error
            _acquire(lock, folder)
        lock.release()


def holder(folder: Path) -> int:
    """The id of the `dp run` process of this machine that writes a run folder.

    The system must confirm that this process has the folder's lock file open, and runs `dp run`: another machine may
    write to a shared disk, the holder may be a notebook, and ids are used again. Only Linux tells.

    Raises RunError if there is no such process.
    """
    words = _said_by_holder(folder).removeprefix("process ").split(",")[0]
    process = Path("/proc", words) if words.isdecimal() else None
    hint = "press Ctrl+C where it was started"
    if process is None or not process.is_dir():
        raise RunError(f"no process of this machine is known to write {folder}", hint=hint)
    with suppress(OSError):  # a process of another user, or one that has just ended
        arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        opened = [_link(file) for file in (process / "fd").iterdir()]
        if "run" in arguments and _is_dp(arguments) and str((folder / LOCK).resolve()) in opened:
            return int(words)
    raise RunError(
        f"the process {words} that writes {folder} is not a `dp run` that can be stopped from here", hint=hint
    )


def stop_holder(folder: Path) -> int:
    """Ask the `dp run` that writes a run folder to stop after its training step, with SIGTERM; returns its id.

    Raises RunError as `holder` does, and if this process may not send it a signal.
    """
    process = holder(folder)
    try:
        os.kill(process, signal.SIGTERM)
    except OSError as error:
        raise RunError(f"cannot stop process {process}: {error.strerror}") from error
    return process


def _said_by_holder(folder: Path) -> str:
    """Who holds the lock; empty if unknown, for example because the holder has just ended."""
    with suppress(RunError):
        return read_text(folder / HOLDER) if is_plain_file(folder / HOLDER) else ""
    return ""


def _is_dp(arguments: list[str]) -> bool:
    """Whether these are the arguments of `dp`, `python -m dualproc`, or a training job of `dp bench` or `dp ui`."""
    return any(Path(word).name == "dp" or word == "dualproc" or "dualproc.cli" in word for word in arguments[:4])


def _link(file: Path) -> str:
    try:
        return os.readlink(file)
    except OSError:
        return ""


def _acquire(lock: FileLock, folder: Path) -> None:
    path = folder / LOCK
    if os.path.lexists(path) and not is_plain_file(path):
        raise RunError(f"{path} is not a regular file", hint="delete it")
    try:
        with suppress(NotImplementedError):  # a network disk without locks
            lock.acquire(timeout=_WAIT, poll_interval=_WAIT / 10)
    except Timeout:
        holder = f" ({text})" if (text := _said_by_holder(folder)) else ""
        hint = "wait until it is done, or choose another folder with `out`"
        raise RunError(f"{folder} is in use by another run{holder}", hint=hint) from None
