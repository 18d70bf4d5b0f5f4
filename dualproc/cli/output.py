"""Errors, warnings and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from dualproc.errors import DualprocError

_OPTIONS = {"`resume=True`": "`--resume`", "`overwrite=True`": "`--overwrite`", "`out`": "`--out`"}
"""Arguments that messages of the library name, and the options of the command line that set them."""


def with_options(error: DualprocError) -> str:
    """The text of an error; the Python arguments that it names are replaced with the command line's options."""
    text = str(error)
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return text


def print_error(error: DualprocError) -> None:
    """Print an error to stderr, with `error:` in red."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {with_options(error)}", err=True)


def print_warning(message: str) -> None:
    """Print a warning to stderr, with `warning:` in yellow."""
    typer.echo(f"{typer.style('warning:', fg='yellow', bold=True)} {message}", err=True)


def print_progress(message: str) -> None:
    """Print to stderr what happens now, dimmed."""
    typer.secho(f"{message} ...", dim=True, err=True)


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under bold headings; each column is as wide as its longest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    typer.secho(line(headings), bold=True)
    for row in rows:
        typer.echo(line(row))
