"""`dp bench`: run every variant of many specs, and collect the results in one table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.errors import DualprocError, Problem, RunError, SpecError
from dualproc.wording import plural

from .arguments import Overrides, given_folder
from .bench_bars import BenchBars
from .output import print_folded_table, print_warning
from .processes import Job, TrainingProcess, interrupts, threads_each

if TYPE_CHECKING:
    from dualproc.report.bench import BenchRow

DEFAULT_PATHS, DEFAULT_OUT = ("specs",), "runs/bench"
SUFFIXES = (".yaml", ".yml", ".json")
_POLL = 0.2
"""Seconds between two checks of the running fits."""
_GRACE = 10.0
"""If a bench fails, its fits have this many seconds to end before they are killed."""


def bench(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH]...", help="Specs, or folders of specs.", show_default="specs/"),
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
    dp bench specs/line_weight.yaml specs/horizon.yaml     two specs
    dp bench specs/ --variant thin                         only variants called thin
    dp bench specs/ --set train.steps=20 --out runs/short  a quick test in another folder
    dp bench specs/horizon.yaml --overwrite                train one spec again
    dp bench specs/ --jobs 2                               two fits at the same time
    """
    given = tuple(paths or DEFAULT_PATHS)
    folder = given_folder(out)
    planned = _plan(given, tuple(overrides or ()), variant, folder)
    _make_way(planned, overwrite=overwrite)
    table = _Table(folder, planned, _command(given, overrides or (), variant, out, jobs))
    interrupted = _work(table, jobs)
    table.show()
    if interrupted:
        done = f"interrupted: {len(table.rows)} of {plural(len(planned), 'variant')} done"
        typer.secho(f"\n{done}; continue with:\n  {table.command}", fg="yellow", err=True)
        raise typer.Exit(130)
    if any(row.error for row in table.rows.values()):
        raise typer.Exit(1)


# --- planning -------------------------------------------------------------------------------------------------------


def _plan(paths: Sequence[str], overrides: tuple[str, ...], variant: str | None, out: Path) -> list[Job]:
    """One job per spec and variant. Raises SpecError with the mistakes of all files."""
    from dualproc.resolve import read_checked

    problems: list[Problem] = []
    planned, names = [], []
    for file in _files(paths):
        try:
            loaded = read_checked(file, overrides=overrides)
        except SpecError as error:
            problems += error.problems
            continue
        for one in loaded.each():
            spec = one.require()
            names.append(spec.variant or "")
            if variant in (None, spec.variant):
                chosen = one.variant if loaded.variant is None else None
                folder = out / spec.name / (spec.variant or "")
                planned.append(Job(str(file), chosen, overrides, spec, folder))
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    if not planned:
        known = ", ".join(dict.fromkeys(filter(None, names)))
        raise DualprocError(f"no spec has a variant `{variant}`", hint=f"known: {known}" if known else None)
    _refuse_duplicates(planned)
    return planned


def _files(paths: Sequence[str]) -> list[Path]:
    """The spec files, each once; those of a folder in alphabetical order."""
    from dualproc.run.files import as_run_error

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)  # if it does not exist, reading it raises the error
            continue
        with as_run_error("read", path):
            files = sorted(path.iterdir())
        inside = [file for file in files if file.suffix in SUFFIXES and not file.name.startswith(".")]
        if not inside:
            raise DualprocError(f"no spec in the folder {path}", hint=f"names of specs end in {', '.join(SUFFIXES)}")
        found += inside
    return list({file.resolve(): file for file in reversed(found)}.values())[::-1]


def _refuse_duplicates(planned: Sequence[Job]) -> None:
    """Raise DualprocError if two jobs have the same run folder."""
    taken: dict[Path, Job] = {}
    for job in planned:
        other = taken.setdefault(job.folder, job)
        if other is not job:
            raise DualprocError(
                f"{other.file} and {job.file} have the same name, {job.label}: their runs would share a folder",
                hint="change `name` in one of them, or run them separately with different `--out`",
            )


def _make_way(planned: Sequence[Job], *, overwrite: bool) -> None:
    """With `overwrite`, delete the earlier runs of these jobs.

    Raises RunError with all runs that can neither be started nor resumed.
    """
    from dualproc.run import RunFolder, portable
    from dualproc.run.lock import refuse_locked

    for job in planned:
        refuse_locked(job.folder)  # raised first: its hint is to wait, not to overwrite
    errors: list[RunError] = []
    for job in planned:
        try:
            RunFolder.refuse(job.folder, portable(job.spec).text, resume=not overwrite, overwrite=overwrite)
        except RunError as error:
            errors.append(error)
    if errors:
        restart = "" if overwrite else "start these runs again with `--overwrite`, or "
        raise RunError(
            "\n".join(error.message for error in errors), hint=f"{restart}choose another folder with `--out`"
        )
    for job in planned if overwrite else ():  # all before the first fit: after Ctrl+C, any run left is from this bench
        RunFolder.delete(job.folder)


def _command(paths: Sequence[str], overrides: Sequence[str], variant: str | None, out: str, jobs: int) -> str:
    """The command that repeats or continues this bench."""
    words = ["dp", "bench", *paths, *(["--variant", variant] if variant else [])]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--out", out] if out != DEFAULT_OUT else []
    words += ["--jobs", str(jobs)] if jobs != 1 else []
    return shlex.join(words)


# --- running --------------------------------------------------------------------------------------------------------


def _work(table: _Table, at_a_time: int) -> bool:
    """Run all unfinished jobs; True if Ctrl+C, SIGTERM or a closed terminal interrupted them."""
    waiting = [job for job in table.planned if not table.take_finished(job)]
    if table.rows:
        typer.echo(f"already finished: {len(table.rows)} of {plural(len(table.planned), 'variant')}")
    table.write()
    running: list[TrainingProcess] = []
    try:
        with interrupts() as interrupted, BenchBars(waiting) as bars:
            while running or (waiting and not interrupted()):
                while waiting and len(running) < at_a_time and not interrupted():
                    running.append(TrainingProcess(waiting.pop(0), threads=threads_each(at_a_time)))
                for process in [each for each in running if each.poll() is not None]:
                    running.remove(process)
                    table.take(process, interrupted=interrupted() > 0)
                    table.write()
                    bars.done(process.job, table.sentence(process.job) if process.job in table.rows else None)
                for process in running:
                    bars.show(process, ending=interrupted() > 0)
                    if interrupted():
                        process.end(at_once=interrupted() > 1)
                time.sleep(_POLL)
            return interrupted() > 0
    finally:  # after an error too, such as a full disk: no fit may outlive its bench
        _end_all(running)


def _end_all(processes: Sequence[TrainingProcess]) -> None:
    """End all processes and wait for them; those that do not end within `_GRACE` seconds are killed."""
    deadline = time.monotonic() + _GRACE
    while alive := [each for each in processes if each.poll() is None]:
        for process in alive:
            if time.monotonic() < deadline:
                process.end(at_once=True)
            else:
                process.kill()
        time.sleep(_POLL)


@dataclass
class _Table:
    """The results so far, and the files that they are written to."""

    out: Path
    planned: Sequence[Job]
    command: str
    rows: dict[Job, BenchRow] = field(default_factory=dict)

    def take_finished(self, job: Job) -> bool:
        """Add the row of a run if it is finished; returns whether it is."""
        from dualproc.report.bench import is_finished, read_result

        if not is_finished(job.folder):
            return False
        self.rows[job] = replace(self._empty(job), result=read_result(job.folder))
        return True

    def take(self, process: TrainingProcess, *, interrupted: bool) -> None:
        """Add the row of a fit that ended: its results, or why it failed. An interrupted fit gets no row."""
        try:
            if (process.poll() == 0 and self.take_finished(process.job)) or interrupted:
                return
            reason = process.failure()
        except RunError as error:  # the run has damaged files
            reason = str(error)
        self.rows[process.job] = replace(self._empty(process.job), error=reason)

    def sorted_rows(self) -> list[BenchRow]:
        """The rows in the order of the plan."""
        return [self.rows[job] for job in self.planned if job in self.rows]

    def write(self) -> None:
        """Write the table and the gallery of the rows so far."""
        from dualproc.report.bench import GALLERY, write_table
        from dualproc.report.gallery import write_gallery

        rows = self.sorted_rows()
        write_table(self.out, rows, planned=len(self.planned), command=self.command)
        write_gallery(self.out / GALLERY, self.out, rows)

    def sentence(self, job: Job) -> str:
        """The result of a job in one line."""
        from dualproc.report.bench import HEADINGS, cells

        cell = dict(zip(HEADINGS, cells(self.rows[job]), strict=True))
        if self.rows[job].error:
            return f"{job.label}: {cell['measured']}"
        return f"{job.label}: {cell['measured']}, on target {cell['on target']}, trained in {cell['seconds']} s"

    def show(self) -> None:
        """Print the table, the errors, and the paths of the files."""
        from dualproc.report.bench import GALLERY, HEADINGS, TABLE_JSON, TABLE_MARKDOWN, cells, footer

        rows = self.sorted_rows()
        typer.echo()
        if rows:
            print_folded_table(HEADINGS, [cells(row) for row in rows])
        for line in footer(rows, planned=len(self.planned), command=self.command):
            typer.echo(f"\n{line}")
        for job, row in self.rows.items():
            if row.error:
                print_warning(f"{job.label} failed: {row.error}\n  full output: {job.log}")
        written = [self.out / name for name in (TABLE_MARKDOWN, TABLE_JSON, GALLERY)]
        typer.echo("\n" + "\n".join(f"  {path}" for path in written if path.exists()))

    def _empty(self, job: Job) -> BenchRow:
        from dualproc.report.bench import BenchRow

        folder = job.folder.relative_to(self.out).as_posix()
        return BenchRow(job.spec.name, job.spec.variant, folder)
