"""`dp sweep`: train one spec with every combination of some values, and say which is best."""

from __future__ import annotations

from typing import Annotated

import typer

from dualproc.wording import command

from .arguments import EveryVariant, File, Jobs, Overrides, Ray, given_folder, refuse_jobs_on_ray

DEFAULT_OUT = "runs/sweep"


def sweep(
    file: File,
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUES",
            help="Values of a key: --grid train.lr=5e-5,1e-4, or whole numbers from first to last: --grid "
            "train.seed=0..4. Repeatable: all combinations are trained.",
        ),
    ],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="CRITERION", help="Name the best setting by `on target`, `referee`, `kept` or `diversity`."
        ),
    ] = None,
    overrides: Overrides = None,
    variant: EveryVariant = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for the runs and the table.")] = DEFAULT_OUT,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier runs of this sweep in DIR and start again.")
    ] = False,
    jobs: Jobs = 1,
    ray: Ray = None,
) -> None:
    """Train one spec with every combination of some values, and print one table.

    Runs go to DIR/NAME/VARIANT/SETTING, the table to DIR/sweep.md, sweep.json and sweep.html. Values of train.seed are
    not settings of their own: a row of the table has mean and range over the seeds. After Ctrl+C, run the same command
    again: finished fits are kept, and an interrupted one resumes.

    The judge cannot choose the best setting, because training maximises its answer.

    \b
    dp sweep horizon --variant high --grid train.lr=5e-5,1e-4 --grid train.seed=0..4 --by "on target"
    dp sweep line_weight --grid train.batch=4,8 --set train.steps=50 --out runs/batch
    dp sweep horizon --grid train.seed=0..9 --ray auto     on the Ray cluster of this machine, see docs/scale.md
    """
    from .bench_jobs import alone, make_way, run_and_show
    from .sweep_jobs import SweepResults, check_criterion, plan_sweep

    refuse_jobs_on_ray(jobs, ray)
    folder = given_folder(out)
    planned = plan_sweep(file, grid, tuple(overrides or ()), variant, folder)
    if by is not None:
        check_criterion(by, planned)
    words = ["dp", "sweep", file, *(word for one in grid for word in ("--grid", one))]
    words += ["--by", by] if by else []
    words += [word for override in overrides or () for word in ("--set", override)]
    words += ["--variant", variant] if variant else []
    words += ["--out", out] if out != DEFAULT_OUT else []
    words += ["--jobs", str(jobs)] if jobs != 1 else []
    words += ["--ray", ray] if ray else []
    with alone(folder):
        make_way(planned, overwrite=overwrite)
        run_and_show(SweepResults(folder, planned, command(*words), name="sweep", by=by), jobs, ray=ray)
