"""Writing files so that a crash or a full disk never leaves an incomplete one."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

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


def open_to_write(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO:
    """A regular file, open for writing. Raises OSError if it cannot be opened, is a link, or is anything else."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)

    file = open(path, mode, opener=opener)  # noqa: SIM115 (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def is_plain_file(path: Path) -> bool:
    """Whether a regular file has this name, and not a link to one."""
    with suppress(OSError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def refuse_links(folder: Path) -> None:
    """Raise RunError if a folder inside `folder` is a link: what is written into a run must stay in it."""
    for place, names, _ in os.walk(folder):
        for path in (Path(place, name) for name in names):
            if path.is_symlink():
                hint = "replace it by a folder, or delete it"
                raise RunError(f"{path} is a link; folders inside a run are never followed", hint=hint)


def write_plainly(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file under a temporary name. Raises OSError if that is not possible."""
    with open_to_write(path, "wb") as file:
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


def keep_aside(text: str, ending: str) -> str:
    """The name of a temporary file with this text, `dp-...-{ending}`; if it cannot be written, the reason instead."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="dp-", suffix=f"-{ending}", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write(text)
    except OSError as error:  # a full disk, or no folder for temporary files: the message that names it matters more
        return f"not written: {error.strerror or error}"
    return file.name


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
