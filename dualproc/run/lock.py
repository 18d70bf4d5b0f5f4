"""One writer a run folder: a lock that the operating system releases when its holder ends, however it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

from dualproc.errors import RunError

from .files import as_run_error

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


class FolderLock:
    """Held from creation to `release()`, or to the end of the process.

    Raises RunError if another process (or another lock in this one) holds the folder. On systems and disks that have
    no locks, nothing is refused.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK
        with as_run_error("lock", folder):
            self._file = path.open("a+b", buffering=0)
        try:
            self._acquire(folder)
        except BaseException:
            self._file.close()
            raise

    def release(self) -> None:
        """Let others write; the lock file stays, since deleting it would let two writers lock two files."""
        self._file.close()

    def _acquire(self, folder: Path) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(folder) from None
        except OSError:  # a network disk without locks
            return
        with as_run_error("lock", folder):
            self._file.truncate(0)
            self._file.write(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())


def refuse_locked(folder: Path) -> None:
    """Raise the RunError of `FolderLock` if another process holds the folder, without locking or making anything."""
    if fcntl is None:
        return
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder) from None
    except OSError:  # never locked, or a network disk without locks
        return


def _in_use(folder: Path) -> RunError:
    holder = (folder / LOCK).read_text(encoding="ascii", errors="replace")
    return RunError(
        f"{folder} is in use by another run" + (f" ({holder})" if holder else ""),
        hint="wait until it is done, or name another folder with `--out`",
    )
