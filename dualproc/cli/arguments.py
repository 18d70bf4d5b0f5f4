"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dualproc.errors import DualprocError

File = Annotated[
    str, typer.Argument(metavar="SPEC", help="The spec: a YAML or JSON file, or the name of a shipped spec (dp specs).")
]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a value of the spec: --set train.steps=50. Repeatable."),
]
Variant = Annotated[
    str | None,
    typer.Option("--variant", metavar="NAME", help="The variant to use; required if the spec has variants."),
]


def variant_option(default: str) -> Any:
    """`--variant NAME` of commands that do not require it; `default` says which variants they use without it."""
    return typer.Option("--variant", metavar="NAME", help="The variant to use.", show_default=default)


EveryVariant = Annotated[str | None, variant_option("every variant")]
FirstVariant = Annotated[str | None, variant_option("the first")]

SpecFile = Annotated[
    str | None,
    typer.Option("--spec", metavar="SPEC", help="The spec (file or name) that has the questions, models and scorers."),
]

Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="NAME=VALUE",
        help="Value of a placeholder in the spec's questions, for all images: --field subject='a cat'. Repeatable.",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def given_folder(text: str) -> Path:
    """The folder that `--out` names. Raises DualprocError if it is empty, for example from an unset shell variable."""
    if not text.strip():
        hint = "give a folder (`--out .` is the current folder), or omit the option"
        raise DualprocError("`--out` is empty", hint=hint)
    return Path(text)


def named_values(texts: Sequence[str]) -> dict[str, str]:
    """The values of all `--field NAME=VALUE`, by name. Raises DualprocError if one does not have this form."""
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.strip() and value.strip()):
            hint = "for example --field subject='a cat'"
            raise DualprocError(f"expected --field NAME=VALUE, got `--field {text}`", hint=hint)
        values[name.strip()] = value.strip()
    return values


def field_options(names: Sequence[str]) -> str:
    """The options that set these fields: `--field subject=... --field prompt=...`."""
    return " ".join(f"--field {name}=..." for name in names)
