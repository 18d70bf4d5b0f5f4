"""Errors, warnings and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from dualproc.errors import DualprocError
from dualproc.wording import printable

_OPTIONS = {"`resume=True`": "`--resume`", "`overwrite=True`": "`--overwrite`", "`out`": "`--out`"}
"""Arguments that messages of the library name, and the options of the command line that set them."""


def say(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text of any origin, `printable`, to stdout or stderr, in a `style` as of `typer.style`.

    Everything that the command line prints passes through here or through `printable`.
    """
    shown = printable(text)
    typer.echo(typer.style(shown, **style) if style else shown, err=err, nl=nl)


def with_options(error: DualprocError) -> str:
    """The text of an error; the Python arguments that it names are replaced with the command line's options."""
    text = str(error)
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text


def print_error(error: DualprocError) -> None:
    """Print an error to stderr, with `error:` in red."""
    say("error:", err=True, fg="red", bold=True, nl=False)
    say(f" {with_options(error)}", err=True)


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
