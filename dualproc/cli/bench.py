"""`dp bench`: run every variant of many specs, and collect the results in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from dualproc.wording import command

from .arguments import Jobs, Overrides, Ray, given_folder, refuse_jobs_on_ray

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
    jobs: Jobs = 1,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, max=100, help="Seeds per variant: `train.seed` and the next N - 1.")
    ] = 1,
    ray: Ray = None,
) -> None:
    """Run every variant of many specs, and print one table.

    Runs go to DIR/NAME/VARIANT, the table to DIR/bench.md and DIR/bench.json, sample images to DIR/gallery.png. These
    files are updated after every fit. At the end, the images of every run are measured with the scorers of all specs:
    DIR/side_effects.md shows what else each LoRA changed.

    After Ctrl+C, run the same command again without --overwrite: finished runs are kept, and an interrupted run resumes
    from its checkpoint. Finished runs are recognised by their spec alone: after a change of model weights or of
    dualproc, use --overwrite.

    With --seeds, every variant is trained several times. A row of the table then has mean and range over the seeds, and
    how many seeds bring 90% of the images on target. Seed N has its run in DIR/NAME/VARIANT-seedN.

    Mistakes in any spec are reported before the first fit starts (exit code 2). If a fit fails, its row shows the
    error, and the other fits still run (exit code 1).

    \b
    dp bench specs/                                        all specs, all variants
    dp bench line_weight horizon                           two specs
    dp bench specs/ --variant thin                         only variants called thin
    dp bench specs/ --set train.steps=20 --out runs/short  a quick test in another folder
    dp bench horizon --overwrite                           train one spec again
    dp bench specs/ --jobs 2                               two fits at the same time
    dp bench specs/ --seeds 3                              three fits per variant: mean and range
    dp bench specs/ --ray auto                             on the Ray cluster of this machine, see docs/scale.md
    """
    from .bench_jobs import Results, alone, make_way, plan_jobs, run_and_show

    refuse_jobs_on_ray(jobs, ray)
    given = tuple(paths or DEFAULT_PATHS)
    folder = given_folder(out)
    planned = plan_jobs(given, tuple(overrides or ()), variant, folder, seeds=seeds)
    table = Results(folder, planned, _command(given, overrides or (), variant, out, jobs, seeds, ray))
    with alone(folder):
        make_way(planned, overwrite=overwrite)
        run_and_show(table, jobs, ray=ray)


def _command(
    paths: Sequence[str],
    overrides: Sequence[str],
    variant: str | None,
    out: str,
    jobs: int,
    seeds: int,
    ray: str | None,
) -> str:
    """The command that repeats or continues this bench."""
    words = ["dp", "bench", *paths, *(["--variant", variant] if variant else [])]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--out", out] if out != DEFAULT_OUT else []
    words += ["--jobs", str(jobs)] if jobs != 1 else []
    words += ["--seeds", str(seeds)] if seeds != 1 else []
    words += ["--ray", ray] if ray else []
    return command(*words)
