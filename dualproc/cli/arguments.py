"""Arguments and options that several commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dualproc.errors import DualprocError

File = Annotated[str, typer.Argument(metavar="FILE", help="The spec, a YAML or JSON file.")]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value: --set train.steps=50. May be repeated."),
]

Variant = Annotated[str | None, typer.Option("--variant", metavar="NAME", help="Which variant of the spec.")]

SpecFile = Annotated[str | None, typer.Option("--spec", metavar="SPEC", help="The spec that says what to look for.")]

Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field", metavar="NAME=VALUE", help="What the spec's questions call the image: --field subject='a cat'."
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def given_folder(text: str) -> Path:
    """The folder that `--out` names. Raises DualprocError if it is empty, as a variable of the shell may be."""
    if not text.strip():
        raise DualprocError("`--out` is empty", hint="name a folder, or leave it out; `--out .` is the current one")
    return Path(text)


def named_values(texts: Sequence[str]) -> dict[str, str]:
    """What `--field NAME=VALUE` said. Raises DualprocError if one is not of that form."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise DualprocError(f"`--field {text}` names no field", hint="write it as --field subject='a cat'")
        values[name.strip()] = value.strip()
    return values


def field_options(names: Sequence[str]) -> str:
    """How to give these fields: `--field subject=... --field prompt=...`."""
    return " ".join(f"--field {name}=..." for name in names)
