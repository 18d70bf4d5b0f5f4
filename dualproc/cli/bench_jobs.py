"""The work of `dp bench`: plan its jobs, run them, and keep the table of their results. Imported on use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dualproc.errors import DamageError, DualprocError, Problem, RunError, SpecError
from dualproc.report import bench, side_effects
from dualproc.report.gallery import strip_of, write_gallery
from dualproc.resolve import read_checked, toy_mix
from dualproc.run import RunFolder, portable
from dualproc.run.files import as_run_error, make_folder, write_atomically
from dualproc.run.lock import FolderLock, refuse_locked
from dualproc.spec import locate
from dualproc.spec.files import SUFFIXES
from dualproc.wording import command, plural, printable

from .output import outlive_output, print_warning, say
from .processes import Job, RunningJob, TrainingProcess, interrupts, threads_each
from .progress import Bars, BenchBars

_POLL = 0.2
"""Seconds between two checks of the running fits."""
_GRACE = 10.0
"""If a bench fails, its fits have this many seconds to end before they are killed."""


def plan_jobs(
    paths: Sequence[str], overrides: tuple[str, ...], variant: str | None, out: Path, *, seeds: int = 1
) -> list[Job]:
    """One job per spec, variant and seed: the spec's own `train.seed`, and the next ones.

    Raises SpecError with the mistakes of all files.
    """
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
    if seeds > 1:
        planned = varied(planned, lambda job: [_with_seed(job, job.spec.train.seed + index) for index in range(seeds)])
    _refuse_duplicates(planned)
    for mixed in dict.fromkeys(filter(None, (toy_mix(job.spec) for job in planned))):
        print_warning(mixed)
    return planned


def _with_seed(job: Job, seed: int) -> Job:
    """The same job with a seed; the fit with the spec's own seed is the one of a bench without seeds."""
    if seed == job.spec.train.seed:
        return replace(job, seed=seed)
    folder = job.folder.with_name(f"{job.folder.name}-seed{seed}")
    return replace(job, overrides=(*job.overrides, f"train.seed={seed}"), folder=folder, seed=seed)


def varied(planned: Sequence[Job], variations: Callable[[Job], Iterable[Job]]) -> list[Job]:
    """The variations of every job, each with the spec that its overrides give.

    Raises SpecError with the mistakes of all of them.
    """
    made: list[Job] = []
    problems: list[Problem] = []
    for job in planned:
        for one in variations(job):
            try:
                spec = read_checked(one.file, overrides=one.overrides, variant=one.variant).require()
                made.append(replace(one, spec=spec))
            except SpecError as error:
                problems += error.problems
    if problems:
        raise SpecError(list(dict.fromkeys(problems)))
    return made


def _files(paths: Sequence[str]) -> list[Path]:
    """The spec files, each once; those of a folder in alphabetical order."""
    found: list[Path] = []
    for path in map(locate, paths):
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
                f"{other.file} and {job.file} have the same name, {job.spec.label}: their runs would share a folder",
                hint="change `name` in one of them, or run them separately with different `--out`",
            )


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Within, no other bench or sweep writes into this folder: they would replace each other's table and logs.

    Raises RunError if one does, or if the folder cannot be written.
    """
    new = not out.exists()
    make_folder(out)
    lock = FolderLock(out, links=True)
    try:
        yield
    finally:
        lock.release(undo=new)


def make_way(planned: Sequence[Job], *, overwrite: bool) -> None:
    """With `overwrite`, delete earlier runs. Raises RunError with all runs that can neither be started nor resumed."""
    for job in planned:
        refuse_locked(job.folder)  # raised first: its hint is to wait, not to overwrite
    errors: list[RunError] = []
    for job in planned:
        try:
            RunFolder.refuse(job.folder, portable(job.spec, job.folder).text, resume=not overwrite, overwrite=overwrite)
        except DamageError:
            continue  # only this run fails, when it is resumed
        except RunError as error:
            errors.append(error)
    if errors:
        restart = "" if overwrite else "start these runs again with `--overwrite`, or "
        message = "\n".join(error.message for error in errors)
        raise RunError(message, hint=f"{restart}choose another folder with `--out`")
    for job in planned if overwrite else ():  # all before the first fit: after Ctrl+C, any run left is from this bench
        RunFolder.delete(job.folder)


def run_and_show(table: Results, at_a_time: int, *, ray: str | None = None) -> None:
    """Run all unfinished jobs and print the table. Raises typer.Exit if a fit failed (1) or was interrupted (130).

    With `ray`, the address of a Ray cluster, as many at a time as it has room for.
    """
    outlive_output()
    for job in table.planned:
        table.take_earlier(job)
    if ray is None:
        interrupted = run_jobs(table, at_a_time, partial(TrainingProcess, threads=threads_each(at_a_time)))
    else:
        from .ray_jobs import starting_on

        with starting_on(ray, table.out, [job for job in table.planned if job not in table.rows]) as start:
            interrupted = run_jobs(table, len(table.planned), start)
    if not interrupted:
        table.measure_side_effects()
    table.show()
    if interrupted:
        done = f"interrupted: {len(table.rows)} of {plural(len(table.planned), table.unit)} done"
        say(f"\n{done}; continue with:\n  {table.command}", fg="yellow", err=True)
        raise typer.Exit(130)
    if any(row.error for row in table.rows.values()):
        raise typer.Exit(1)


def run_jobs(table: Results, at_a_time: int, start: Callable[[Job], RunningJob]) -> bool:
    """Run all unfinished jobs; True if Ctrl+C, SIGTERM or a closed terminal interrupted them."""
    if finished := sum(not row.error for row in table.rows.values()):
        say(f"already finished: {finished} of {plural(len(table.planned), table.unit)}")
    waiting = [job for job in table.planned if job not in table.rows]
    table.write()
    running: list[RunningJob] = []
    try:
        with interrupts() as interrupted, BenchBars(waiting) as bars:
            while running or (waiting and not interrupted()):
                while waiting and len(running) < at_a_time and not interrupted():
                    running.append(start(waiting.pop(0)))
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


def _end_all(processes: Sequence[RunningJob]) -> None:
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
class Results:
    """The results so far, and the files that they are written to."""

    out: Path
    planned: Sequence[Job]
    command: str
    """Repeats the bench."""
    name: str = bench.BENCH
    """The table is NAME.md and NAME.json."""
    rows: dict[Job, bench.BenchRow] = field(default_factory=dict)
    changes: dict[str, side_effects.Changes] = field(default_factory=dict)
    """By run folder, what every scorer's values changed by."""
    own: dict[str, frozenset[str]] = field(default_factory=dict)
    """By run folder, the labels of the task's own scorers."""

    def add(self, job: Job, error: str | None = None) -> None:
        """Add the row of a finished run, or of a failed one. Raises DamageError if its files are damaged."""
        result = None if error else bench.read_result(job.folder)
        row = job.row(result, error, out=self.out)
        if result is not None:
            _require_images(row, job.folder)
        self.rows[job] = row

    def take_earlier(self, job: Job) -> None:
        """Add the row of a run that an earlier bench finished, or whose files are damaged."""
        try:
            if bench.is_finished(job.folder, job.spec.train.steps):
                self.add(job)
        except DamageError as error:
            self.add(job, str(error))

    def take(self, process: RunningJob, *, interrupted: bool) -> None:
        """Add the row of a fit that ended: its results, or why it failed. An interrupted fit gets no row."""
        try:
            if process.poll() == 0 and bench.is_finished(process.job.folder):
                self.add(process.job)
            elif not interrupted:
                self.add(process.job, process.failure())
        except RunError as error:
            self.add(process.job, str(error))

    def sorted_rows(self) -> list[bench.BenchRow]:
        """The rows in the order of the plan."""
        return [self.rows[job] for job in self.planned if job in self.rows]

    def write(self) -> None:
        """Write the table and the gallery of the rows so far."""
        rows = self.sorted_rows()
        planned, more = len(self.planned), self.conclusions()
        bench.write_table(self.out, rows, planned=planned, command=self.command, name=self.name, more=more)
        write_gallery(self.out / bench.GALLERY, self.out, rows)

    def measure_side_effects(self) -> None:
        """Measure the images of every finished run with the scorers of all specs, and write the table."""
        from dualproc.engine.evaluators import quantity
        from dualproc.engine.side_effects import changes, scorers_of

        finished = {job: row for job, row in self.rows.items() if row.result is not None}
        scorers = scorers_of([job.spec for job in finished])
        self.own = {
            row.folder: frozenset(
                label for label, ref in scorers.items() if quantity(ref) in set(map(quantity, job.spec.scorers))
            )
            for job, row in finished.items()
        }
        with Bars() as bars:
            bar = bars.add_task("side effects", total=len(finished), note="")
            for job, row in finished.items():
                try:
                    self.changes[row.folder] = changes(job.folder, scorers)
                except DualprocError as error:
                    print_warning(f"side effects of {job.label} were not measured: {error.message}")
                bars.more(bar, 1)
        if self.changes:
            text = side_effects.render(self.sorted_rows(), self.changes, self.own)
            write_atomically(self.out / side_effects.FILE, text)

    @property
    def unit(self) -> str:
        """What is counted: `variant`, or `fit` if a variant has several."""
        return "fit" if any(job.seed is not None or job.setting for job in self.planned) else "variant"

    def conclusions(self) -> list[str]:
        """Lines for the first place below the table."""
        return []

    def sentence(self, job: Job) -> str:
        """The result of a job in one line."""
        cell = dict(zip(bench.HEADINGS, bench.cells(self.rows[job]), strict=True))
        numbers = f", on target {cell['on target']}, trained in {cell['seconds']} s"
        return f"{job.label}: {cell['measured']}{'' if self.rows[job].error else numbers}"

    def show(self) -> None:
        """Print the table, the errors, and the paths of the files."""
        rows = self.sorted_rows()
        say()
        if rows:
            headings, *lines = bench.table(rows)
            _print_folded(headings, lines)
        if self.changes:
            say("\nSide effects, in standard deviations of the base images:")
            headings, *lines = side_effects.table(rows, self.changes, self.own)
            _print_folded(headings, lines)
            say(f"\n{side_effects.conclusion(rows, self.changes, self.own)}")
        for line in (*self.conclusions(), *bench.footer(rows, planned=len(self.planned), command=self.command)):
            say(f"\n{line}")
        for job, row in self.rows.items():
            if row.error:
                log = f"\n  full output: {job.log}" if job.log.exists() else ""
                print_warning(f"{job.label} failed: {row.error}{log}")
        files = [*(f"{self.name}.{ending}" for ending in ("md", "json", "html")), side_effects.FILE]
        written = [self.out / name for name in (*files, bench.GALLERY)]
        say("\n" + "\n".join(f"  {path}" for path in written if path.exists()))


def _require_images(row: bench.BenchRow, folder: Path) -> None:
    """Raise DamageError if the images of a finished run cannot be shown."""
    try:
        strip_of(row, folder)
    except DualprocError as error:
        raise DamageError(error.message, hint=f"evaluate the run again: {command('dp', 'score', folder)}") from error


def _print_folded(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows in columns; on a terminal, long cells wrap to its width. Elsewhere, no cell wraps."""
    console, table = Console(), Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    if not console.is_terminal:
        console.width = console.measure(table, options=console.options.update(width=1000)).maximum
    console.print(table)
