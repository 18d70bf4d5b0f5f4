"""`dp plugins`: which plugins are installed, what one of them takes, and a new package of one's own."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.errors import PluginError
from dualproc.protocols import KINDS

from .output import print_table
from .parameters import type_words, value_words

if TYPE_CHECKING:
    from dualproc.registry import LoadedPlugin


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback(invoke_without_command=True)(all_kinds)
    group.command("show")(show)
    group.command("new")(new)
    for kind in KINDS:
        group.command(kind, help=f"List the installed {kind.replace('_', ' ')}.")(_lister(kind))
    app.add_typer(group, name="plugins")


def all_kinds(context: typer.Context) -> None:
    """List the installed plugins, show one, or begin one of your own.

    \b
    dp plugins                             all of them
    dp plugins judges                      one kind
    dp plugins show visual_prompts/line    one plugin and its parameters
    dp plugins new dualproc-redness        a package for a plugin of your own
    """
    if context.invoked_subcommand is None:
        _print_entries(*KINDS)


def show(name: Annotated[str, typer.Argument(metavar="KIND/NAME", help="such as judges/tiny")]) -> None:
    """Load one plugin and show its parameters.

    \b
    dp plugins show visual_prompts/line
    dp plugins show judges/some-distribution/tiny    where several distributions have a tiny
    """
    from dualproc.registry import load

    kind, slash, bare = name.partition("/")
    if not slash:
        raise PluginError(f"'{name}' does not say which kind", hint="write KIND/NAME, such as judges/tiny")
    loaded = load(kind, bare)
    entry = loaded.entry
    typer.secho(name, bold=True, nl=False)
    typer.echo(f"  {entry.distribution} {entry.version or ''}  {entry.target}")
    typer.echo(loaded.summary)
    parameters = _parameters(loaded)
    typer.echo("\nparameters:" if parameters else "\nno parameters")
    for line in parameters:
        typer.echo(line)


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the package, such as dualproc-redness.")],
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="scorer (default), judge, ...; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="Where to; a folder called NAME by default.")
    ] = None,
) -> None:
    """Write a package with a small plugin that works, its tests, and what is needed to install it.

    \b
    dp plugins new dualproc-redness
    dp plugins new dualproc-house-style --kind visual_prompt --kind judge --out house-style

    Kinds: generator, judge, reward, visual_prompt, anchor, scorer.
    """
    from dualproc.scaffold import new_package

    made = new_package(name, kind or ["scorer"], out=out)
    for file in made.files:
        typer.echo(f"wrote {file}")
    typer.secho("\nnext:", bold=True)
    steps = [f"cd {shlex.quote(str(made.folder))}", "pip install -e '.[dev]'", "pytest"]
    for step in [*steps, *(f"dp plugins show {plugin}" for plugin in made.plugins)]:
        typer.echo(f"  {step}")


def _lister(kind: str) -> Callable[[], None]:
    return lambda: _print_entries(kind)


def _print_entries(*kinds: str) -> None:
    from dualproc.registry import discover

    found = {kind: discover(kind) for kind in kinds}
    rows = [
        (entry.kind, entry.name, f"{entry.distribution} {entry.version or ''}", entry.target)
        for discovery in found.values()
        for entry in discovery.entries
    ]
    print_table(("kind", "name", "distribution", "entry point"), rows)
    for message in dict.fromkeys(message for discovery in found.values() for message in discovery.unreadable):
        typer.secho(f"left out: {message}", fg="yellow", err=True)


def _parameters(loaded: LoadedPlugin) -> list[str]:
    """Two lines for each parameter: its name, type and default, and what it means."""
    schema = loaded.cls.Params.model_json_schema()
    required = set(schema.get("required", ()))
    lines = []
    for name, field in schema.get("properties", {}).items():
        default = f"default {value_words(field['default'])}" if "default" in field else "optional"
        if name in loaded.preset:
            default = f"this preset: {value_words(loaded.preset[name])}"
        elif name in required:
            default = "required"
        lines.append(f"  {typer.style(name, bold=True)}  {type_words(field, schema)}  ({default})")
        lines.append(f"      {field.get('description', '')}")
    return lines
