"""`dp plugins`: list the installed plugins, show the parameters of one, create a package for a new one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.errors import PluginError
from dualproc.protocols import KINDS
from dualproc.wording import command

from .output import print_table, say

if TYPE_CHECKING:
    from dualproc.registry import LoadedPlugin

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}

group = typer.Typer(rich_markup_mode=None)


@group.callback(invoke_without_command=True)
def all_kinds(context: typer.Context) -> None:
    """List, show or create plugins.

    Without a command, it lists all installed plugins: kind, name, distribution and entry point.

    \b
    dp plugins                             list all plugins
    dp plugins judges                      list the plugins of one kind
    dp plugins show visual_prompts/line    show the parameters of a plugin
    dp plugins new dualproc-redness        create a package for a new plugin
    """
    if context.invoked_subcommand is None:
        _print_entries(*KINDS)


@group.command()
def show(name: Annotated[str, typer.Argument(metavar="KIND/NAME", help="The plugin, such as judges/tiny.")]) -> None:
    """Show the parameters of a plugin: type, default, meaning.

    If several distributions have a plugin of this name, write KIND/DISTRIBUTION/NAME.

    \b
    dp plugins show visual_prompts/line
    dp plugins show judges/dualproc/tiny
    """
    from dualproc.registry import load

    kind, slash, bare = name.partition("/")
    if not slash:
        raise PluginError(f"expected KIND/NAME, got '{name}'", hint="for example judges/tiny; `dp plugins` lists both")
    loaded = load(kind, bare)
    entry = loaded.entry
    say(name, bold=True, nl=False)
    say(f"  {entry.distribution} {entry.version or ''}  {entry.target}")
    say(loaded.summary)
    if loaded.gated:
        say(gated_note(loaded.preset["model"]))
    if loaded.train:
        say(published_note(loaded))
    parameters = _parameters(loaded)
    say("\nparameters:" if parameters else "\nno parameters")
    for parameter, form, about in parameters:
        say(f"  {parameter}", bold=True, nl=False)
        say(f"  {form}\n      {about}")


@group.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the package, such as dualproc-redness.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="generator, judge, reward, visual_prompt, anchor or scorer. Repeatable.",
            show_default="scorer",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the package.", show_default="NAME")
    ] = None,
) -> None:
    """Create a package for a new plugin.

    The package has a small working plugin of each KIND, its tests and a pyproject.toml, and is ready to install.

    \b
    dp plugins new dualproc-redness
    dp plugins new dualproc-house-style --kind visual_prompt --kind judge --out house-style
    """
    from dualproc.scaffold import new_package

    made = new_package(name, kind or ["scorer"], out=out)
    for file in made.files:
        say(f"wrote {file}")
    say("\nnext:", bold=True)
    steps = [command("cd", made.folder), "pip install -e '.[dev]'", "pytest"]
    for step in [*steps, *(f"dp plugins show {plugin}" for plugin in made.plugins)]:
        say(f"  {step}")


def _list(context: typer.Context) -> None:
    _print_entries(str(context.info_name))


for _kind in KINDS:
    group.command(_kind, help=f"List the installed {_kind.replace('_', ' ')}.\n\n\b\ndp plugins {_kind}")(_list)


def _print_entries(*kinds: str) -> None:
    from dualproc.registry import discover, gated

    found = {kind: discover(kind) for kind in kinds}
    closed = {kind: gated(kind) for kind in kinds}
    rows = [
        (
            entry.kind,
            entry.name,
            f"{entry.distribution} {entry.version or ''}",
            entry.target
            + (" (gated)" if entry.distribution == "dualproc" and entry.name in closed[entry.kind] else ""),
        )
        for discovery in found.values()
        for entry in discovery.entries
    ]
    print_table(("kind", "name", "distribution", "entry point"), rows)
    for message in dict.fromkeys(message for discovery in found.values() for message in discovery.unreadable):
        say(f"skipped: {message}", fg="yellow", err=True)


def _parameters(loaded: LoadedPlugin) -> list[tuple[str, str, str]]:
    """Each parameter's name, type and default, and meaning; then those of the keys that a spec reads itself."""
    from dualproc.spec.refs import fullest_ref

    ours = _rows(fullest_ref(loaded.entry.kind).model_json_schema(), {})
    return [*_rows(loaded.cls.Params.model_json_schema(), loaded.preset), *(row for row in ours if row[0] != "type")]


def _rows(schema: Mapping[str, Any], preset: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        default = f"default {value_words(field['default'])}" if "default" in field else "optional"
        if name in preset:
            default = f"this preset: {value_words(preset[name])}"
        elif name in required:
            default = "required"
        yield name, f"{type_words(field, schema)}  ({default})", str(field.get("description", ""))


def gated_note(model: str) -> str:
    """What to do before a gated model of the hub can be downloaded."""
    from dualproc.kit.hub import LOGIN, page

    return f"Gated: accept the terms at {page(model)}, then log in: {LOGIN}"


def published_note(loaded: LoadedPlugin) -> str:
    """The training settings that a preset suggests, and where they are published."""
    values = ", ".join(f"`{key}: {value_words(value)}`" for key, value in loaded.train.items())
    return f"Where a spec sets no value of `train`: {values} ({loaded.train_source})"


def value_words(value: Any) -> str:
    """A value as it is written in a spec."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def type_words(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The type and bounds of a field, such as `number > 0 and <= 1`; `schema` has the `$defs` that it may refer to."""
    if "$ref" in field:
        return type_words(schema["$defs"][field["$ref"].rsplit("/", 1)[-1]], schema)
    if "x-plugin" in field:
        return "a plugin, {type: NAME, ...}"
    if options := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(dict.fromkeys(type_words(option, schema) for option in options))
    if "enum" in field or "const" in field:
        return " | ".join(value_words(value) for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"[{', '.join(type_words(item, schema) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        return f"list of {type_words(field.get('items', {}), schema)}"
    if field.get("properties"):
        return f"{{{', '.join(f'{name}: {type_words(of, schema)}' for name, of in field['properties'].items())}}}"
    bounds = " and ".join(f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field)
    return f"{'none' if field.get('type') == 'null' else field.get('type', 'anything')} {bounds}".strip()
