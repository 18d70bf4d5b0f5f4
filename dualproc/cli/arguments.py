"""Arguments and options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from dualproc.errors import DualprocError

MAX_DEPTH = 100
"""Folders in a path to write to."""

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

Jobs = Annotated[
    int, typer.Option(metavar="N", min=1, help="Number of fits to run at the same time; they share the CPU cores.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run the fits on a Ray cluster: `auto` (the one that this machine belongs to), HOST:PORT, or `local` (on "
        "this machine alone).",
    ),
]
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

At = Annotated[
    list[str] | None,
    typer.Option(
        "--at",
        metavar="SLIDER=VALUE",
        help="Value of a slider of the spec: --at row=0.42. Repeatable.",
        show_default="the middle of its range",
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def refuse_jobs_on_ray(jobs: int, ray: str | None) -> None:
    """Raise DualprocError if both `--jobs` and `--ray` are given, or if Ray is not installed."""
    if ray is None:
        return
    if jobs != 1:
        hint = "omit `--jobs`: Ray runs as many fits at the same time as the cluster has room for"
        raise DualprocError("`--jobs` and `--ray` exclude each other", hint=hint)
    if find_spec("ray") is None:
        raise DualprocError("`--ray` needs Ray, which is not installed", hint="pip install 'dualproc[ray]'")


def given_folder(text: str) -> Path:
    """The folder that `--out` names. Raises DualprocError if it is empty, for example from an unset shell variable."""
    if not text.strip():
        hint = "give a folder (`--out .` is the current folder), or omit the option"
        raise DualprocError("`--out` is empty", hint=hint)
    return given_path(text)


def given_path(text: str) -> Path:
    """A place to write to. Raises DualprocError if it is deeper than Python can make folders."""
    if len((path := Path(text)).parts) > MAX_DEPTH:
        raise DualprocError(f"expected a path of at most {MAX_DEPTH} folders, got {len(path.parts)}: {text[:60]}...")
    return path


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


def slider_values(texts: Sequence[str], count: int = 1) -> list[dict[str, float]]:
    """The values of all `--at SLIDER=VALUE`, by name: one mapping or, with one `--at SLIDER=LOW..HIGH`, `count`.

    Raises DualprocError if one does not have this form.
    """
    single: dict[str, float] = {}
    several: dict[str, list[float]] = {}
    for text in texts:
        name, _, value = text.partition("=")
        ends = [_number(part) for part in value.split("..", 1)]
        if not name.strip() or not all(map(math.isfinite, ends)):
            hint = "for example --at row=0.42, or --at row=0.3..0.6 -n 7 for several values"
            raise DualprocError(f"expected --at SLIDER=VALUE, got `--at {text}`", hint=hint)
        if len(ends) == 1:
            single[name.strip()] = ends[0]
        else:
            several[name.strip()] = [ends[0] + (ends[1] - ends[0]) * i / max(1, count - 1) for i in range(count)]
    if len(several) > 1:
        raise DualprocError(f"only one slider can have a range, got {' and '.join(several)}")
    if not several:
        return [single]
    if count < 2:
        raise DualprocError("a range needs several images", hint="for example -n 7")
    ((moved, values),) = several.items()
    return [{**single, moved: round(value, 10)} for value in values]


def one_place(texts: Sequence[str]) -> dict[str, float]:
    """The values of all `--at SLIDER=VALUE`, by name. Raises DualprocError if one is a range or has another form."""
    values, *more = slider_values(texts, 2)
    if more:
        raise DualprocError("expected one value, not a range", hint="for example --at row=0.42")
    return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def field_options(names: Sequence[str]) -> str:
    """The options that set these fields: `--field subject=... --field prompt=...`."""
    return " ".join(f"--field {name}=..." for name in names)
