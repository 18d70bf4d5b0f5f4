"""`dp specs`: list the shipped specs, and copy one to start from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dualproc.errors import DualprocError, RunError
from dualproc.wording import nearest

from .arguments import given_path
from .output import print_table, say

ENDINGS = (".yaml", ".yml")

group = typer.Typer(rich_markup_mode=None)


@group.callback(invoke_without_command=True)
def all_specs(context: typer.Context) -> None:
    """List the shipped specs, or copy one to start from.

    Every command that takes a spec accepts the name of a shipped one, in any folder.

    \b
    dp specs                             list the shipped specs
    dp run line_weight                   run one
    dp specs copy line_weight            write line_weight.yaml, to change it
    """
    if context.invoked_subcommand is None:
        _print_specs()


@group.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The shipped spec, such as line_weight.")],
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="The file to write.", show_default="NAME.yaml")
    ] = None,
) -> None:
    """Copy a shipped spec to a file, to change it.

    Files that the spec extends or uses (images) are copied next to it. No file is replaced.

    \b
    dp specs copy line_weight
    dp specs copy real/composition mine/composition.yaml
    """
    from dualproc.run.files import make_folder, write_atomically
    from dualproc.spec import shipped_specs

    shipped = shipped_specs()
    if name not in shipped:
        raise DualprocError(f"no shipped spec is called '{name}'", hint=nearest(name, shipped))
    target = given_path(f"{Path(name).name}.yaml" if file is None else file)
    if target.suffix not in ENDINGS:
        raise DualprocError(f"expected a file that ends in {' or '.join(ENDINGS)}, got '{target}'")
    files = copies(name, shipped[name], target)
    another = f"write it elsewhere: dp specs copy {name} FILE"
    try:
        for path, data in files.items():
            if path.exists() and (path == target or not path.is_file() or path.read_bytes() != data):
                raise DualprocError(f"{path} exists already", hint=another)
        for path, data in reversed(files.items()):  # the spec last: the same command completes a copy that was ended
            make_folder(path.parent)
            write_atomically(path, data)
            say(f"wrote {path}")
    except RunError as error:
        raise DualprocError(error.message, hint=another) from error
    except OSError as error:
        raise DualprocError(f"cannot write {error.filename or target}: {error.strerror}", hint=another) from error
    say("\nnext:", bold=True)
    for command in ("spec check", "run"):
        say(f"  dp {command} {shlex.quote(str(target))}")


def _print_specs() -> None:
    """One row per shipped spec; the footer says how to use them."""
    from dualproc.spec import shipped_specs
    from dualproc.spec.files import read_chain

    rows = []
    for name, file in shipped_specs().items():
        document, _ = read_chain(file)
        assert document is not None
        generator, about = (document.nearest(path)[0].value for path in (("generator", "type"), ("description",)))
        rows.append((name, str(generator), ", ".join(document.mapping("variants")) or "-", str(about)))
    print_table(("spec", "generator", "variants", "description"), rows)
    say("\nRun one:           dp run line_weight")
    say("Copy, to change:   dp specs copy line_weight")


def copies(name: str, spec: Path, target: Path) -> dict[Path, bytes]:
    """The contents of the files to write: the spec, and the files that it extends or uses, at their places next to it.

    The command in the comment of the spec names its copy.
    """
    from dualproc.spec import named_files, read_spec

    loaded = read_spec(spec)
    extended = {node.place.source for _, node in loaded.document.walk() if node.place.source}
    used = {file for one in loaded.each() for file in named_files(one.require())}
    others = sorted({Path(file) for file in extended | used} - {spec})
    text = spec.read_text(encoding="utf-8").replace(f"specs/{name}.yaml", target.as_posix())
    more = {target.parent / other.relative_to(spec.parent): other.read_bytes() for other in others}
    return {target: text.encode("utf-8"), **more}
