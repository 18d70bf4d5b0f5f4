"""Errors, warnings and tables on the terminal."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any

import typer

from dualproc.errors import DualprocError
from dualproc.wording import printable

_OPTIONS = {"`resume=True`": "--resume", "`overwrite=True`": "--overwrite", "`out`": "--out"}
"""Arguments that messages of the library name, and the options of the command line that set them."""


def say(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text of any origin, `printable`, to stdout or stderr, in a `style` as of `typer.style`.

    Everything that the command line prints passes through here or through `printable`.
    """
    shown = printable(text)
    typer.echo(typer.style(shown, **style) if style else shown, err=err, nl=nl)


@contextmanager
def stdout_for_the_result(active: bool = True) -> Iterator[None]:
    """Within, if `active`, what plugins, libraries and their processes print goes to stderr: stdout is for JSON."""
    if not active:
        yield
        return
    sys.stdout.flush()
    ours = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


class _Lossy(io.FileIO):
    """A stream that may break: its reader has ended, its terminal is closed, its disk is full. Then it drops text."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def outlive_output() -> None:
    """From now on, the command goes on where its output cannot be printed: a fit is worth more than its messages.

    For example after Ctrl+C in `dp run ... | tee log`, which ends `tee` first.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or not isinstance(stream, io.TextIOWrapper):
            continue  # replaced: by a test, or in the second process of a fit
        with suppress(OSError):
            stream.flush()
        raw = io.BufferedWriter(_Lossy(stream.fileno(), "w", closefd=False))
        lossy = io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=stream.line_buffering)
        setattr(sys, name, lossy)


def with_options(error: DualprocError, offered: Collection[str] = tuple(_OPTIONS.values())) -> str:
    """The text of an error with the command line's options in place of the Python arguments that it names.

    Advice with an option that is not `offered` by the command is left out of the hint.
    """
    hint = error.hint or ""
    for argument, option in _OPTIONS.items():
        if option not in offered:
            hint = re.sub(rf"(^|[,;])[^,;]*{re.escape(argument)}[^,;]*", "", hint).strip(",; ")
    text = str(DualprocError(error.message, hint=hint or None))
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, f"`{option}`")
    return text


def print_error(error: DualprocError, offered: Collection[str] = tuple(_OPTIONS.values())) -> None:
    """Print an error to stderr, with `error:` in red; `offered` as in `with_options`."""
    say("error:", err=True, fg="red", bold=True, nl=False)
    say(f" {with_options(error, offered)}", err=True)


def print_warning(message: str) -> None:
    """Print a warning to stderr, with `warning:` in yellow."""
    say("warning:", err=True, fg="yellow", bold=True, nl=False)
    say(f" {message}", err=True)


def print_progress(message: str) -> None:
    """Print to stderr what happens now, dimmed."""
    say(f"{message} ...", dim=True, err=True)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under bold headings; each column is as wide as its longest cell."""
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    say(line(headings), bold=True)
    for row in rows:
        say(line(row))
