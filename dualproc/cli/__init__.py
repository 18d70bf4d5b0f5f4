"""The command line, `dp`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dualproc import __version__
from dualproc.errors import DualprocError
from dualproc.wording import cause

from . import (
    ask,
    audit,
    bench,
    compare,
    generate,
    plan,
    plugins,
    push,
    run,
    score,
    sliders,
    spec,
    specs,
    sweep,
    ui,
    write,
)
from .output import print_error, say, with_options


def _version(requested: bool) -> None:
    if requested:
        say(f"dualproc {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = (False),
) -> None:
    """Train a LoRA for an image generator by asking a vision-language model about its images.

    One YAML file, the spec, declares the task: prompts, question and expected answer. Run the commands in this order:

    \b
    dp specs                                       list the shipped specs; each runs by its name
    dp specs copy line_weight                      write line_weight.yaml, to change it
    dp spec check line_weight.yaml                 check a spec for mistakes
    dp audit line_weight                           check its questions on images of the base generator
    dp plan line_weight                            estimate memory and time, without loading weights
    dp run line_weight                             train and evaluate; results go to runs/line_weight/
    dp generate runs/line_weight/thick "a cartoon of an owl"

    Other commands:

    \b
    dp ui                                          do all of this in the browser
    dp bench specs/                                run every variant of every spec and print one table
    dp sweep horizon --grid train.lr=5e-5,1e-4     run every setting, and show which is best
    dp ask cat.png "Is this a drawing of a cat?"   ask a judge about an image
    dp write-questions "a red car" --model NAME    let a language model write questions
    dp score images/ --spec horizon --variant high
    dp compare runs/short runs/long                show several runs on one HTML page
    dp push runs/horizon my-name/horizon           upload a LoRA to the Hugging Face hub
    dp export runs/horizon --at row=0.42 --out DIR save one value of a slider as an ordinary LoRA
    dp plugins                                     list the installed plugins
    dp plugins show visual_prompts/line            show the parameters of a plugin
    dp spec show line_weight --variant thin --set train.steps=50
    dp schema > spec.schema.json                   write a schema for YAML completion in an editor
    """


class _Root(TyperGroup):
    """`dp` with its commands."""

    def invoke(self, context: Any) -> Any:
        """Run the chosen command. What would end the process without a message becomes an error."""
        try:
            return super().invoke(context)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # commands raise typer.Exit, an Exception: a plugin or a library did this
            raise _failure(error) or DualprocError(f"the command was ended by {cause(error)}") from error


app = typer.Typer(name="dp", cls=_Root, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.callback()(_root)
for _command in (
    run.run, generate.generate, sliders.export, plan.plan, score.score, ask.ask, audit.audit, bench.bench, sweep.sweep,
    compare.compare, push.push, ui.ui, write.write_questions, spec.schema,
):  # fmt: skip
    app.command()(_command)
app.add_typer(plugins.group, name="plugins")
app.add_typer(spec.group, name="spec")
app.add_typer(specs.group, name="specs")


def main(arguments: Sequence[str] | None = None, *, error_file: str | None = None) -> None:
    """Run the command line.

    Errors in the user's input and in plugins print one message to stderr, without a traceback, and exit with code 2.
    With `error_file`, the message is also written to that file, where `dp bench` reads it.
    """
    if _follows():
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (open until the process ends)
    try:
        app(arguments, prog_name="dp")
    except Exception as error:
        if (failure := _failure(error)) is None:
            raise
        offered = _options(sys.argv[1:] if arguments is None else arguments)
        print_error(failure, offered)
        if error_file is not None:
            with suppress(OSError):
                Path(error_file).write_text(with_options(failure, offered), encoding="utf-8")
        sys.exit(2)


def _follows() -> bool:
    """Whether this is one of several processes of a fit, and not the first, which prints for all of them."""
    rank, count = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    numbers = rank.isdecimal() and count.isdecimal() and "MASTER_ADDR" in os.environ
    return numbers and 0 < int(rank) < int(count)


def _options(arguments: Sequence[str]) -> set[str]:
    """The options of the command that is called."""
    called = typer.main.get_command(app)
    for word in arguments:
        called = getattr(called, "commands", {}).get(word, called)
    return {option for parameter in called.params for option in parameter.opts}


def _failure(error: BaseException) -> DualprocError | None:
    """An exception as an error with one message; None if it is a bug in dualproc, whose traceback is useful."""
    if isinstance(error, DualprocError):
        return error
    from dualproc.engine.failures import plugin_failure

    if (found := plugin_failure(error)) is not None:
        return found
    if isinstance(error, OSError) and error.errno is not None:  # a folder that may not be entered, for example
        unnamed = "find the current folder" if isinstance(error, FileNotFoundError) else "read or write a file"
        where = unnamed if error.filename is None else f"use {error.filename}"
        return DualprocError(f"cannot {where}: {error.strerror}", hint="check that it exists, and that you may use it")
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return DualprocError("a name has a null character, which no file can have")
    return None
