"""`dp export`: a run's LoRA at values of its sliders."""

from __future__ import annotations

from typing import Annotated

import typer

from dualproc.errors import DualprocError

from .arguments import At, given_folder, one_place
from .output import say


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run folder of a spec with sliders.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the LoRA; a LoRA in it is replaced.")],
    at: At = None,
) -> None:
    """Save one value of a slider as an ordinary LoRA.

    Writes the LoRA's files into DIR. Every tool loads them like any other LoRA, at weight 1.0.

    \b
    dp export runs/horizon --at row=0.42 --out horizon-0.42
    """
    if not at:
        raise DualprocError("`--at` is missing", hint="for example --at row=0.42")
    values, folder = one_place(at), given_folder(out)
    from .progress import quiet

    quiet()
    from dualproc.engine.reload import export as save
    from dualproc.run.folder import WEIGHTS

    save(run, values, folder)
    say(str(folder / WEIGHTS))
