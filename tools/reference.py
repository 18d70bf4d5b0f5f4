"""The reference pages, made from the code: `docs/commands.md`, `docs/spec.md` and `docs/plugins.md`.

    python -m tools.reference             write them
    python -m tools.reference --check     say which are not what the code says; exit code 1 if any

Only plugins that dualproc itself brings are described, whatever else is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

DOCS = Path(__file__).resolve().parents[1] / "docs"
MADE = "<!-- made by `python -m tools.reference`; do not edit -->"
WIDTH = "100"


def commands() -> str:
    """The help of every command."""
    import typer

    from dualproc.cli import app

    os.environ["TERMINAL_WIDTH"] = os.environ["COLUMNS"] = WIDTH

    def helps(command: Any, context: Any) -> Iterator[str]:
        yield f"## {context.command_path}\n\n```text\n{_unstyled(command.get_help(context)).strip()}\n```\n"
        for name, child in getattr(command, "commands", {}).items():
            yield from helps(child, type(context)(child, info_name=name, parent=context))

    root = typer.main.get_command(app)
    body = "\n".join(helps(root, root.make_context("dp", [], resilient_parsing=True)))
    told = "What `dp COMMAND --help` prints. Exit code 2 means a mistake in the input; the message says which."
    return f"# Commands\n\n{MADE}\n\n{told}\n\n{body}"


def spec() -> str:
    """The format of a spec, key by key."""
    from dualproc.spec import TaskSpec

    parts = [
        f"# The spec, key by key\n\n{MADE}\n\n"
        "A spec is a YAML (or JSON) file. Keys without a default are required; a key that is not listed here is an\n"
        "error. `{type: NAME, ...}` names a plugin and its parameters: [plugins.md](plugins.md). A file may build on\n"
        "another with `extends: FILE`, a path in the same folder or below; `--set train.steps=50` overrides a value\n"
        "from the command line, `dp spec show FILE` prints where each value came from, and `dp schema` prints all\n"
        "this as a JSON schema.\n"
    ]
    paths: dict[type[BaseModel], list[str]] = {}
    for path, model in _models("", TaskSpec):
        paths.setdefault(model, []).append(path)
    for model, where in paths.items():
        parts.append(
            f"## {', '.join(where) or 'the spec itself'}\n\n{_first_line(model)}\n\n{_table(model, sections=paths)}"
        )
    return "\n".join(parts)


def plugins() -> str:
    """All plugins that dualproc brings, with their parameters."""
    from dualproc import registry
    from dualproc.protocols import KINDS

    parts = [
        f"# Plugins, and their parameters\n\n{MADE}\n\n"
        "What dualproc brings; `dp plugins` lists what is installed, `dp plugins show KIND/NAME` says the same as\n"
        "this page. A *preset* is another plugin with the parameters that are given here. How to write one:\n"
        "[write_a_plugin.md](write_a_plugin.md).\n"
    ]
    for kind in KINDS:
        parts.append(f"## {kind.replace('_', ' ')}\n")
        ours = [entry for entry in registry.discover(kind).entries if entry.distribution == "dualproc"]
        names = {entry.target: entry.name for entry in ours}
        for entry in ours:
            loaded = registry.load(kind, f"dualproc/{entry.name}")
            parts.append(f"### {entry.name}\n\n{loaded.summary}\n")
            if loaded.preset:
                base = names[registry.target_of(loaded.cls)]
                given = "\n".join(f"    {key}: {_cell(_plain(value))}" for key, value in loaded.preset.items())
                parts.append(f"A preset, of the parameters of `{base}`:\n\n{given}\n")
            else:
                parts.append(_table(loaded.cls.Params) if loaded.cls.Params.model_fields else "No parameters.\n")
    return "\n".join(parts)


def _models(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and those within it, each with its dotted key; those of plugins are left out."""
    from dualproc.spec import PluginRef

    yield path, model
    for name, field in model.model_fields.items():
        for inner in dict.fromkeys(_within(field.annotation)):
            if not issubclass(inner, PluginRef):
                yield from _models(f"{path}.{name}" if path else name, inner)


def _within(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _within(argument)


def _table(model: type[BaseModel], *, sections: Collection[type[BaseModel]] = ()) -> str:
    """One row a field; models that have a section of their own are only pointed to."""
    from dualproc.cli.parameters import type_words

    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    annotations = {field.alias or name: field.annotation for name, field in model.model_fields.items()}
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in schema.get("properties", {}).items():
        nested = any(inner in sections for inner in _within(annotations[name]))
        words = "a mapping, see below" if nested else type_words(field, schema)
        default = "**required**" if name in required else _default(field, nested)
        rows.append(f"| `{name}` | {_cell(words)} | {default} | {_cell(field.get('description', ''))} |")
    return "\n".join(rows) + "\n"


def _default(field: Mapping[str, Any], nested: bool) -> str:
    if "default" not in field:
        return ""
    if nested and field["default"] is not None:
        return "see below"
    return f"`{_cell(_plain(field['default']))}`"


def _plain(value: Any) -> str:
    from dualproc.cli.parameters import value_words

    words = value_words(dict(value) if isinstance(value, Mapping) else value)
    return words.replace(f"{DOCS.parent}{os.sep}", "")  # shipped models lie where dualproc is installed


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n")[0]


def _unstyled(text: str) -> str:
    import click

    return "\n".join(line.rstrip() for line in click.unstyle(text).splitlines())


PAGES = {"commands.md": commands, "spec.md": spec, "plugins.md": plugins}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    stale = []
    for name, page in PAGES.items():
        file, text = DOCS / name, page()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not args.check:
                file.write_text(text, encoding="utf-8")
    print(f"{'not what the code says' if args.check else 'written'}: {', '.join(stale) or 'none'}")
    sys.exit(bool(stale and args.check))


if __name__ == "__main__":
    main()
