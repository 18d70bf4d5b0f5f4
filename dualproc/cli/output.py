"""Errors, warnings and tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from dualproc.errors import DualprocError


def print_error(error: DualprocError) -> None:
    """Print an error to stderr, with `error:` in red."""
    typer.echo(f"{typer.style('error:', fg='red', bold=True)} {error}", err=True)


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
