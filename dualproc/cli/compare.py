"""`dp compare`: several runs on one page."""

from __future__ import annotations

from typing import Annotated

import typer

from .arguments import given_path
from .output import say


def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Two or more run folders.")],
    out: Annotated[str, typer.Option(metavar="FILE", help="The page to write.")] = "comparison.html",
) -> None:
    """Compare runs on one HTML page.

    The page shows the results of all runs, the settings that differ, and the same held-out images. Nothing is measured
    again.

    \b
    dp compare runs/line_weight/thin runs/line_weight/thick
    dp compare runs/short runs/long --out long_or_short.html
    """
    from dualproc.report.compare import render_comparison
    from dualproc.run import RunFolder
    from dualproc.run.files import write_atomically
    from dualproc.run.folder import EVALUATION

    page = render_comparison([RunFolder.open(run, needs=[EVALUATION]) for run in runs])
    write_atomically(given_path(out), page, durable=False)
    say(out)
