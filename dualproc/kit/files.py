"""Reading files that anybody may have written: regular files of a sane size, checked after they are opened."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_TEXT = 256 * 2**20
"""Bytes of a file of text or numbers."""
MAX_TENSORS = 64 * 2**30
"""Bytes of a file of weights."""


def opened(path: Path, *, most: int = MAX_TEXT) -> BinaryIO:
    """A regular file of at most `most` bytes, open for reading.

    Raises OSError if it cannot be opened, is larger, or is anything else, such as a named pipe, which would block for
    ever, or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if found.st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most / 1e6:,.0f} MB", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: Path, *, most: int = MAX_TEXT) -> bytes:
    """The content of a regular file of at most `most` bytes. Raises OSError as `opened` does."""
    with opened(path, most=most) as file:
        return file.read(os.fstat(file.fileno()).st_size)  # a file that grows is not read further
