"""`dp plugins`: which plugins are installed, and what one of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.errors import PluginError
from dualproc.protocols import KINDS

from .output import print_table

if TYPE_CHECKING:
    from dualproc.registry import LoadedPlugin


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    group = typer.Typer(rich_markup_mode=None)
    group.callback(invoke_without_command=True)(all_kinds)
    group.command("show")(show)
    for kind in KINDS:
        group.command(kind, help=f"List the installed {kind.replace('_', ' ')}.")(_lister(kind))
    app.add_typer(group, name="plugins")


def all_kinds(context: typer.Context) -> None:
    """List the installed plugins, or show one.

    \b
    dp plugins                             all of them
    dp plugins judges                      one kind
    dp plugins show visual_prompts/line    one plugin and its parameters
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
        default = f"default {_value(field['default'])}" if "default" in field else "optional"
        if name in loaded.preset:
            default = f"this preset: {_value(loaded.preset[name])}"
        elif name in required:
            default = "required"
        lines.append(f"  {typer.style(name, bold=True)}  {_type(field, schema)}  ({default})")
        lines.append(f"      {field.get('description', '')}")
    return lines


def _value(value: Any) -> str:
    import json

    return "none" if value is None else json.dumps(value, ensure_ascii=False)


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _type(field: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A JSON schema type in words."""
    if "$ref" in field:
        return _type(schema["$defs"][field["$ref"].rsplit("/", 1)[-1]], schema)
    if "anyOf" in field:
        return " or ".join(_type(option, schema) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        return " | ".join(_value(value) for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"[{', '.join(_type(item, schema) for item in field['prefixItems'])}]"
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), schema)}"
    if field.get("properties"):
        return f"{{{', '.join(f'{name}: {_type(value, schema)}' for name, value in field['properties'].items())}}}"
    bounds = " and ".join(f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field)
    return f"{'none' if field.get('type') == 'null' else field.get('type', 'anything')} {bounds}".strip()
