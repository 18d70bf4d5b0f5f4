"""Writing files so that a crash or a full disk never leaves an incomplete one."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dualproc.errors import DamageError, RunError
from dualproc.kit.files import read

ASIDE = ".aside-"
"""Prefix of files and folders that are being written or deleted; a crash may leave some behind."""

_READING = "check that it exists, that you may read it, and that its disk is available"
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space on that disk, then continue with `resume=True`"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "choose a folder that you may write to with `out`"),
    errno.EROFS: "choose a folder on a writable disk with `out`",
}


@contextmanager
def as_run_error(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError (disk full, read-only, not permitted) into a RunError: "cannot <action> <path>: <cause>"."""
    try:
        yield
    except OSError as error:
        writing = _HINTS.get(error.errno or 0, "choose another folder with `out`")
        hint = _READING if action == "read" else writing
        raise RunError(f"cannot {action} {path}: {error.strerror or error}", hint=hint) from error


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write a temporary file, then rename it to `path`: readers see the old content or the new, never a part.

    With `durable`, the file is on the disk when this returns; without, writing is faster, but a power cut may lose it.
    Raises RunError if it cannot be written; the old content then stays.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    temporary = path.with_name(f"{ASIDE}{os.getpid()}-{path.name}")
    with as_run_error("write", path):
        try:
            write_plainly(temporary, data, durable=durable)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            sync(path.parent)


def write_plainly(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name. Raises OSError if that is not possible."""
    with path.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file's content, or a rename in a folder, survive a power cut; does nothing on Windows."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents; RunError if that is not possible."""
    with as_run_error("make the folder", path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Delete a file, or a folder with its content; does nothing if it does not exist.

    A folder is renamed first, so that no incomplete one stays under its name.
    """
    with as_run_error("delete", path):
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        if not path.name.startswith(ASIDE):
            aside = path.with_name(f"{ASIDE}{path.name}")
            remove(aside)
            path = path.rename(aside)
        shutil.rmtree(path)


def sweep(folder: Path) -> None:
    """Delete temporary files that a crash left in a folder. Only for the holder of the run's lock."""
    for left in folder.glob(f"{ASIDE}*"):
        remove(left)


def read_text(path: Path) -> str:
    """The content of a text file; DamageError if it cannot be read, is not a regular file, or is too large."""
    try:
        return read(path).decode("utf-8")
    except OSError as error:
        raise DamageError(f"cannot read {path}: {error.strerror or error}", hint=_READING) from error
    except UnicodeDecodeError as error:
        raise DamageError(f"{path} is damaged: {error}") from error
