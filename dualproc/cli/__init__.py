"""The command line, `dp`. Commands live in this package's modules; each has `register(app)`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

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
    """Teach an image generator anything you can ask a vision-language model about a picture, from one YAML file.

    \b
    dp run specs/line_weight.yaml                  teach it, measure it, write runs/line_weight/*
    dp plan specs/line_weight.yaml                 what memory and time it will take
    dp bench specs/                                every variant of every spec, and one table
    dp ask cat.png "Is this a drawing of a cat?"   ask a judge about a picture
    dp score pictures/ --spec specs/horizon.yaml --variant high
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors of users and plugins go to stderr without a traceback, exit code 2."""
    try:
        app(arguments, prog_name="dp")
    except DualprocError as error:
        print_error(error)
        sys.exit(2)
    except Exception as error:  # of a plugin, say
        from dualproc.engine.failures import of_a_plugin

        told = of_a_plugin(error)
        if told is None:
            raise
        print_error(told)
        sys.exit(2)
