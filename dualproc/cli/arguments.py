"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

File = Annotated[str, typer.Argument(metavar="FILE", help="The spec, a YAML or JSON file.")]

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a value: --set train.steps=50. May be repeated."),
]

Variant = Annotated[str | None, typer.Option("--variant", metavar="NAME", help="Which variant of the spec.")]
