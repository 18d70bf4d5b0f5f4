"""The command line, `dp`. Commands live in this package's modules; each has `register(app)`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from dualproc import __version__
from dualproc.errors import DualprocError

from . import ask, bench, plan, plugins, run, score, spec
from .output import print_error

COMMANDS = (run, plan, score, ask, bench, plugins, spec)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dualproc {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = (
        False
    ),
) -> None:
    """Train an image generator anything you can ask a vision-language model about an image, from one YAML file.

    \b
    dp run specs/line_weight.yaml                  train it, measure it, write runs/line_weight/*
    dp plan specs/line_weight.yaml                 what memory and time it will take
    dp bench specs/                                every variant of every spec, and one table
    dp ask cat.png "Is this a drawing of a cat?"   ask a judge about an image
    dp score images/ --spec specs/horizon.yaml --variant high
    dp plugins                                     what is installed
    dp plugins show visual_prompts/line            what a plugin takes
    dp spec check specs/line_weight.yaml           is the file right?
    dp spec show specs/line_weight.yaml --variant thin --set train.steps=50
    dp schema > spec.schema.json                   for an editor that completes YAML
    """


def _app() -> typer.Typer:
    app = typer.Typer(
        name="dp", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False
    )
    app.callback()(_root)
    for module in COMMANDS:
        module.register(app)
    return app


app = _app()


def main(arguments: Sequence[str] | None = None, *, error_file: str | None = None) -> None:
    """Run the command line. Errors in the user's input and in plugins go to stderr, without a traceback; exit code 2.

    With `error_file`, the message of such an error is also written there: `dp bench` reads it from its processes.
    """
    try:
        app(arguments, prog_name="dp")
    except DualprocError as error:
        _end_with(error, error_file)
    except Exception as error:  # raised by a plugin, for example
        from dualproc.engine.failures import plugin_failure

        failure = plugin_failure(error)
        if failure is None:
            raise
        _end_with(failure, error_file)


def _end_with(error: DualprocError, error_file: str | None) -> NoReturn:
    print_error(error)
    if error_file is not None:
        with suppress(OSError):
            Path(error_file).write_text(str(error), encoding="utf-8")
    sys.exit(2)
