"""Writing files so that a crash or a full disk never leaves half of one behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dualproc.errors import RunError

_HINTS = {
    errno.ENOSPC: "free some space on that disk, then continue with `--resume`",
    errno.EDQUOT: "free some space on that disk, then continue with `--resume`",
    errno.EACCES: "name a folder that you may write to with `--out`",
    errno.EPERM: "name a folder that you may write to with `--out`",
    errno.EROFS: "name a folder on a disk that can be written with `--out`",
}


@contextmanager
def as_run_error(action: str, path: Path) -> Iterator[None]:
    """Turn an OSError (disk full, read-only, not allowed) into a RunError: "cannot <action> <path>: <cause>"."""
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "name another folder with `--out`")
        raise RunError(f"cannot {action} {path}: {error.strerror or error}", hint=hint) from error


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write beside `path`, then rename: readers see the old content or the new, never a part.

    With `durable`, it is on the disk when this returns; without, a power cut may lose it, but writing is quicker.
    Raises RunError if it cannot be written; the old content then stays.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with as_run_error("write", path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        if durable:
            sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut, where the system can (Windows cannot open folders)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its parents; RunError if that is not possible."""
    with as_run_error("make the folder", path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Delete a file or a folder with all it holds; nothing happens if there is none."""
    with as_run_error("delete", path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """The content of a text file; RunError if it cannot be read."""
    try:
        with as_run_error("read", path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RunError(f"{path} is damaged: {error}") from error
