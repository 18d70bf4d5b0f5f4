"""`dp bench`: run every variant of many specs, and collect the results in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from dualproc.wording import command, plural

from .arguments import Overrides, given_folder
from .output import say

DEFAULT_PATHS, DEFAULT_OUT = ("specs",), "runs/bench"


def bench(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Specs (files or names), or folders of specs.", show_default="specs/"),
    ] = None,
    overrides: Overrides = None,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only variants of this name.", show_default="every variant")
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the runs and the table.")] = DEFAULT_OUT,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier runs of these specs in DIR and start again.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Number of fits to run at the same time; they share the CPU cores.")
    ] = 1,
) -> None:
    """Run every variant of many specs, and print one table.

    Runs go to DIR/NAME/VARIANT, the table to DIR/bench.md and DIR/bench.json, sample images to DIR/gallery.png. These
    files are updated after every fit.

    After Ctrl+C, run the same command again without --overwrite: finished runs are kept, and an interrupted run resumes
    from its checkpoint. Finished runs are recognised by their spec alone: after a change of model weights or of
    dualproc, use --overwrite.

    Mistakes in any spec are reported before the first fit starts (exit code 2). If a fit fails, its row shows the
    error, and the other fits still run (exit code 1).

    \b
    dp bench specs/                                        all specs, all variants
    dp bench line_weight horizon                           two specs
    dp bench specs/ --variant thin                         only variants called thin
    dp bench specs/ --set train.steps=20 --out runs/short  a quick test in another folder
    dp bench horizon --overwrite                           train one spec again
    dp bench specs/ --jobs 2                               two fits at the same time
    """
    from .bench_jobs import Results, make_way, plan_jobs, run_jobs

    given = tuple(paths or DEFAULT_PATHS)
    folder = given_folder(out)
    planned = plan_jobs(given, tuple(overrides or ()), variant, folder)
    make_way(planned, overwrite=overwrite)
    table = Results(folder, planned, _command(given, overrides or (), variant, out, jobs))
    interrupted = run_jobs(table, jobs)
    table.show()
    if interrupted:
        done = f"interrupted: {len(table.rows)} of {plural(len(planned), 'variant')} done"
        say(f"\n{done}; continue with:\n  {table.command}", fg="yellow", err=True)
        raise typer.Exit(130)
    if any(row.error for row in table.rows.values()):
        raise typer.Exit(1)


def _command(paths: Sequence[str], overrides: Sequence[str], variant: str | None, out: str, jobs: int) -> str:
    """The command that repeats or continues this bench."""
    words = ["dp", "bench", *paths, *(["--variant", variant] if variant else [])]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--out", out] if out != DEFAULT_OUT else []
    words += ["--jobs", str(jobs)] if jobs != 1 else []
    return command(*words)
