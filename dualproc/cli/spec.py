"""`dp spec` and `dp schema`: check a spec, show its values, print the schema of all specs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .arguments import EveryVariant, File, Overrides, Variant
from .output import print_warning, say, stdout_for_the_result

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dualproc.spec import LoadedSpec, TaskSpec


group = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@group.callback()
def _group() -> None:
    """Check a spec, or show all its values.

    \b
    dp spec check line_weight
    dp spec show line_weight --variant thin
    """


@group.command()
def check(file: File, overrides: Overrides = None, variant: EveryVariant = None) -> None:
    """Check a spec, and report every mistake with file, line and column.

    The check covers all variants and the parameters of all plugins. No model is loaded.

    \b
    dp spec check line_weight
    dp spec check line_weight --set train.lr=3e-4
    """
    from dualproc.resolve import published, read_checked, toy_mix

    loaded = read_checked(file, overrides=overrides or (), variant=variant)
    spec = loaded.each()[0].require()
    chosen = f", variant {loaded.variant}" if loaded.variant else ""
    variants = f", variants {', '.join(loaded.variants)}" if loaded.variants and not chosen else chosen
    names = dict.fromkeys(f"{place.kind}/{place.type}" for place in spec.plugins())
    say(f"ok: {spec.name}{variants}; plugins {', '.join(names)}")
    if mixed := toy_mix(spec):
        print_warning(mixed)
    elif settings := published(spec):
        say(settings)


@group.command()
def show(file: File, overrides: Overrides = None, variant: Variant = None) -> None:
    """Print all values of a spec, with defaults.

    A comment after every value names its origin: file and line, --set, or default. The output is a valid spec.

    \b
    dp spec show line_weight --variant thin
    dp spec show line_weight --variant thin --set train.steps=50 > mine.yaml
    """
    from dualproc.resolve import read_checked

    loaded = read_checked(file, overrides=overrides or (), variant=variant)
    for line in _with_origins(loaded.require(), loaded):
        say(line)


def schema() -> None:
    """Print the JSON schema of specs, for completion in editors.

    The schema includes the parameters of all installed plugins.

    \b
    dp schema > spec.schema.json

    Then write this as the first line of a spec:

    \b
    # yaml-language-server: $schema=spec.schema.json
    """
    import json

    from dualproc.resolve import installed_schema

    with stdout_for_the_result():
        document, broken = installed_schema()
    say(json.dumps(document, indent=2, ensure_ascii=False))
    for error in broken:
        say(f"skipped: {error}", fg="yellow", err=True)


def _with_origins(spec: TaskSpec, loaded: LoadedSpec) -> Iterable[str]:
    """The lines of the spec as YAML, with every value's origin as a comment; the comments are aligned."""
    from dualproc.spec import to_yaml
    from dualproc.spec.document import dotted
    from dualproc.spec.reading import read_text

    text = to_yaml(spec)
    written, _ = read_text(text, "")
    origins = {"variant": "--variant", **loaded.origins} if spec.variant else loaded.origins
    comments: dict[int, str] = {}
    for path, node in written.walk() if written else ():
        if not isinstance(node.value, dict) and node.place.line is not None:
            comments.setdefault(node.place.line, origins.get(dotted(path), "default"))
    lines = text.splitlines()
    column = min(70, max(map(len, lines)))
    for number, line in enumerate(lines, start=1):
        yield f"{line.ljust(column)}  # {comments[number]}" if number in comments else line
