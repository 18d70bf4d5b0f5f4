"""`dp bench`: every spec and variant, one fit after another, and one table of what came of them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.errors import DualprocError, Problem, RunError, SpecError

from .arguments import Overrides, given_folder
from .bench_bars import BenchBars
from .output import print_folded_table, print_warning
from .processes import Job, TrainingProcess, interrupts, threads_each

if TYPE_CHECKING:
    from dualproc.report.bench import BenchRow

DEFAULT_PATHS, DEFAULT_OUT = ("specs",), "runs/bench"
SUFFIXES = (".yaml", ".yml", ".json")
_POLL = 0.2
"""Seconds between two looks at the fits."""
_GRACE = 10.0
"""Seconds that fits have to end when a bench fails; after them they are killed."""


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(bench)


def bench(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Specs, or folders of specs; specs/ if not given.")
    ] = None,
    overrides: Overrides = None,
    variant: Annotated[str | None, typer.Option(metavar="NAME", help="Only the variants of this name.")] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where runs and table go.")] = DEFAULT_OUT,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier runs of these specs in DIR and start anew.")
    ] = False,
    jobs: Annotated[int, typer.Option(metavar="N", min=1, help="Fits at a time; they share the CPU cores.")] = 1,
) -> None:
    """Train and measure every variant of many specs, and put the results into one table.

    Runs go to DIR/NAME/VARIANT, the table to DIR/bench.md and DIR/bench.json, images of all to DIR/gallery.png. The
    table is written anew after each fit.

    What is finished is not run again, what was interrupted goes on from its checkpoint: after Ctrl+C, give the same
    command again (without --overwrite). Only the specs are compared: after a change of the models' weights or of
    dualproc itself, use --overwrite. All mistakes of all specs are reported before anything runs (exit code 2). A fit
    that fails is one row of the table, and the others still run (exit code 1).

    \b
    dp bench specs/                                        every variant of every spec
    dp bench specs/line_weight.yaml specs/horizon.yaml     these two
    dp bench specs/ --variant thin                         the variants called thin
    dp bench specs/ --set train.steps=20 --out runs/short  a quick look, in a folder of its own
    dp bench specs/horizon.yaml --overwrite                this one again, after a change
    dp bench specs/ --jobs 2                               two fits at a time
    """
    given = tuple(paths or DEFAULT_PATHS)
    folder = given_folder(out)
    planned = _plan(given, tuple(overrides or ()), variant, folder)
    _make_way(planned, overwrite=overwrite)
    table = _Table(folder, planned, _command(given, overrides or (), variant, out, jobs))
    interrupted = _work(table, jobs)
    table.show()
    if interrupted:
        done = f"interrupted: {len(table.rows)} of {len(planned)} variants are done"
        typer.secho(f"\n{done}; go on with: {table.command}", fg="yellow", err=True)
        raise typer.Exit(130)
    if any(row.error for row in table.rows.values()):
        raise typer.Exit(1)


# --- what is to be done ---------------------------------------------------------------------------------------------


def _plan(paths: Sequence[str], overrides: tuple[str, ...], variant: str | None, out: Path) -> list[Job]:
    """Every spec and variant, checked; SpecError with the mistakes of all files."""
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
        raise DualprocError(f"no spec has a variant `{variant}`", hint=f"there are: {known}" if known else None)
    _refuse_twins(planned)
    return planned


def _files(paths: Sequence[str]) -> list[Path]:
    """The spec files that are meant, each once; those of a folder in alphabetical order."""
    from dualproc.run.files import as_run_error

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)  # if it is missing, reading it says so
            continue
        with as_run_error("read", path):
            files = sorted(path.iterdir())
        inside = [file for file in files if file.suffix in SUFFIXES and not file.name.startswith(".")]
        if not inside:
            raise DualprocError(f"there is no spec in {path}", hint=f"specs end in {', '.join(SUFFIXES)}")
        found += inside
    return list({file.resolve(): file for file in reversed(found)}.values())[::-1]


def _refuse_twins(planned: Sequence[Job]) -> None:
    taken: dict[Path, Job] = {}
    for job in planned:
        other = taken.setdefault(job.folder, job)
        if other is not job:
            raise DualprocError(
                f"{other.file} and {job.file} are both called {job.label}, so their runs would be in one folder",
                hint="rename one of them (`name`), or bench them apart with `--out`",
            )


def _make_way(planned: Sequence[Job], *, overwrite: bool) -> None:
    """See that all runs can start or go on; RunError with everything that is in the way."""
    from dualproc.run import RunFolder, portable
    from dualproc.run.lock import refuse_locked

    for job in planned:
        refuse_locked(job.folder)  # nothing to mend there but to wait, as its error says
    errors: list[RunError] = []
    for job in planned:
        try:
            RunFolder.refuse(job.folder, portable(job.spec).text, resume=not overwrite, overwrite=overwrite)
        except RunError as error:
            errors.append(error)
    if errors:
        renew = "" if overwrite else "start these anew (`--overwrite`), or "
        raise RunError("\n".join(error.message for error in errors), hint=f"{renew}name another folder (`--out`)")
    for job in planned if overwrite else ():  # all at once: what is still there after Ctrl+C is of this bench
        RunFolder.delete(job.folder)


def _command(paths: Sequence[str], overrides: Sequence[str], variant: str | None, out: str, jobs: int) -> str:
    """What to type to go on."""
    words = ["dp", "bench", *paths, *(["--variant", variant] if variant else [])]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--out", out] if out != DEFAULT_OUT else []
    words += ["--jobs", str(jobs)] if jobs != 1 else []
    return shlex.join(words)


# --- doing it -------------------------------------------------------------------------------------------------------


def _work(table: _Table, at_a_time: int) -> bool:
    """Run what is not finished; whether Ctrl+C (or the like) came in between."""
    waiting = [job for job in table.planned if not table.take_finished(job)]
    if table.rows:
        typer.echo(f"{len(table.rows)} of {len(table.planned)} variants are finished already")
    table.write()
    running: list[TrainingProcess] = []
    try:
        with interrupts() as asked, BenchBars(waiting) as bars:
            while running or (waiting and not asked()):
                while waiting and len(running) < at_a_time and not asked():
                    running.append(TrainingProcess(waiting.pop(0), threads=threads_each(at_a_time)))
                for process in [each for each in running if each.poll() is not None]:
                    running.remove(process)
                    table.take(process, interrupted=asked() > 0)
                    table.write()
                    bars.done(process.job, table.sentence(process.job) if process.job in table.rows else None)
                for process in running:
                    bars.show(process, ending=asked() > 0)
                    if asked():
                        process.end(at_once=asked() > 1)
                time.sleep(_POLL)
            return asked() > 0
    finally:  # also when the disk is full, say: no fit goes on unwatched
        _end_all(running)


def _end_all(processes: Sequence[TrainingProcess]) -> None:
    """Return when none of them goes on: each is asked, twice if need be, and then killed."""
    deadline = time.monotonic() + _GRACE
    while going := [each for each in processes if each.poll() is None]:
        for process in going:
            if time.monotonic() < deadline:
                process.end(at_once=True)
            else:
                process.kill()
        time.sleep(_POLL)


@dataclass
class _Table:
    """The rows so far, and the files that hold them."""

    out: Path
    planned: Sequence[Job]
    command: str
    rows: dict[Job, BenchRow] = field(default_factory=dict)

    def take_finished(self, job: Job) -> bool:
        """Add the row of a run if it is finished; whether it is."""
        from dualproc.report.bench import is_finished, read_result

        if not is_finished(job.folder):
            return False
        self.rows[job] = replace(self._empty(job), result=read_result(job.folder))
        return True

    def take(self, process: TrainingProcess, *, interrupted: bool) -> None:
        """Add the row of a fit that has ended: its numbers, or why it failed; none if it was interrupted."""
        try:
            if (process.poll() == 0 and self.take_finished(process.job)) or interrupted:
                return
            reason = process.failure()
        except RunError as error:  # it left damaged files
            reason = str(error)
        self.rows[process.job] = replace(self._empty(process.job), error=reason)

    def sorted_rows(self) -> list[BenchRow]:
        """In the order of the plan, whichever was finished first."""
        return [self.rows[job] for job in self.planned if job in self.rows]

    def write(self) -> None:
        """Write table and gallery, as far as they go."""
        from dualproc.report.bench import GALLERY, write_table
        from dualproc.report.gallery import write_gallery

        rows = self.sorted_rows()
        write_table(self.out, rows, planned=len(self.planned), command=self.command)
        write_gallery(self.out / GALLERY, self.out, rows)

    def sentence(self, job: Job) -> str:
        """What came of a job, in a line."""
        from dualproc.report.bench import HEADINGS, cells

        cell = dict(zip(HEADINGS, cells(self.rows[job]), strict=True))
        if self.rows[job].error:
            return f"{job.label}: {cell['measured']}"
        return f"{job.label}: {cell['measured']}, on target {cell['on target']}, trained in {cell['seconds']} s"

    def show(self) -> None:
        """Print the table, what failed, and where the files are."""
        from dualproc.report.bench import GALLERY, HEADINGS, TABLE_JSON, TABLE_MARKDOWN, cells, footer

        rows = self.sorted_rows()
        typer.echo()
        if rows:
            print_folded_table(HEADINGS, [cells(row) for row in rows])
        for line in footer(rows, planned=len(self.planned), command=self.command):
            typer.echo(f"\n{line}")
        for job, row in self.rows.items():
            if row.error:
                print_warning(f"{job.label} failed: {row.error}\n  all that it printed: {job.log}")
        written = [self.out / name for name in (TABLE_MARKDOWN, TABLE_JSON, GALLERY)]
        typer.echo("\n" + "\n".join(f"  {path}" for path in written if path.exists()))

    def _empty(self, job: Job) -> BenchRow:
        from dualproc.report.bench import BenchRow

        folder = job.folder.relative_to(self.out).as_posix()
        return BenchRow(job.spec.name, job.spec.variant, folder)
