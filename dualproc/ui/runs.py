"""The page Runs: the runs of one folder, and nothing outside it."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from dualproc.errors import RunError
from dualproc.report import headline, render_report
from dualproc.report.compare import render_comparison
from dualproc.run import RunFolder
from dualproc.run.folder import RESOLVED, SAMPLES, WEIGHTS
from dualproc.run.images import GRID
from dualproc.run.resolved import task
from dualproc.spec.sliders import Slider


def find_runs(folder: Path) -> list[Path]:
    """All runs in a folder and its subfolders, in alphabetical order; links are not followed."""
    found = []
    for parent, folders, files in os.walk(folder):  # which leaves out folders that vanish meanwhile
        folders[:] = [name for name in folders if name[0] != "."]
        if RESOLVED in files and inside(Path(parent), folder):
            found.append(Path(parent))
    return sorted(found)


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, with all links resolved, is in a folder."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a null character; a loop of links
        return False


def run_at(name: str, folder: Path) -> RunFolder:
    """The run of a name such as `horizon/low`. Raises RunError if the runs folder has no such run."""
    known = {label(path, folder): path for path in find_runs(folder)}
    if name not in known:
        raise RunError(f"no run is called '{name}' in {folder}")
    return RunFolder(known[name])


def label(path: Path, folder: Path) -> str:
    """The name of a run: its folder, relative to the runs folder."""
    return path.relative_to(folder).as_posix()


def table(folder: Path) -> list[list[str]]:
    """Name, training steps and result of every run; a run that cannot be read says why."""
    rows = []
    for path in find_runs(folder):
        try:
            run = RunFolder(path)
            evaluation, steps = run.read_evaluation(), len(run.metrics())
            result = "not evaluated yet" if evaluation is None else headline(evaluation)
            rows.append([label(path, folder), f"{steps} of {task(run.resolved).steps}", result])
        except RunError as error:
            rows.append([label(path, folder), "", error.message])
    return rows


def gallery(folder: Path) -> list[tuple[Path, str]]:
    """The grid of base and trained images of every run that has one, with its name."""
    grids = [(path / SAMPLES / GRID, label(path, folder)) for path in find_runs(folder)]
    return [(file, name) for file, name in grids if file.is_file() and inside(file, folder)]


def finished(folder: Path) -> list[str]:
    """The names of the runs that have a LoRA, the newest first."""
    runs = [path for path in find_runs(folder) if (path / WEIGHTS).is_file() and inside(path / WEIGHTS, folder)]
    return [label(path, folder) for path in newest_first(runs)]


def newest_first(runs: list[Path]) -> list[Path]:
    """Runs by the time when their LoRA was written or, without one, when they started."""

    def changed(run: Path) -> float:
        times = [file.stat().st_mtime for file in (run / WEIGHTS, run / RESOLVED) if file.is_file()]
        return times[0] if times else 0.0

    return sorted(runs, key=changed, reverse=True)


def report(names: list[str], folder: Path) -> str:
    """The report of one run, or the comparison of several, as an HTML page.

    Raises RunError if there is no run, or one of several has no evaluation.
    """
    runs = [run_at(name, folder) for name in names]
    if not runs:
        raise RunError("no run is chosen")
    return render_report(runs[0]) if len(runs) == 1 else render_comparison(runs)


def sliders(name: str, folder: Path) -> dict[str, Slider]:
    """The sliders of a run, by name; empty if it has none. Raises RunError if they cannot be read."""
    run = run_at(name, folder)
    try:
        return TypeAdapter(dict[str, Slider]).validate_python(run.resolved.get("sliders") or {})
    except ValidationError as error:
        raise RunError(f"{run.path / RESOLVED} is damaged: it has no valid sliders") from error


def delete(name: str, folder: Path) -> None:
    """Delete the files of a run. Raises RunError if it does not exist, or is being written."""
    RunFolder.delete(run_at(name, folder).path)
