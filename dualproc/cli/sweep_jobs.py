"""The work of `dp sweep`: the combinations of a grid as jobs of a bench, and their results. Imported on use."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from dualproc.errors import DualprocError
from dualproc.report import sweep
from dualproc.run.files import write_atomically
from dualproc.wording import listed

from .bench_jobs import Results, plan_jobs, varied
from .processes import Job

SEED = "train.seed"
MOST = 1000
"""The largest number of fits in one sweep."""
_EXAMPLE = "for example --grid train.lr=5e-5,1e-4 --grid train.seed=0..4"
_LONGEST = 80
"""Characters of a folder's name."""


def plan_sweep(file: str, grid: Sequence[str], overrides: tuple[str, ...], variant: str | None, out: Path) -> list[Job]:
    """One job per variant and combination of the grid's values.

    Raises DualprocError if the grid does not have the form KEY=VALUES, SpecError with the mistakes of all settings.
    """
    values = grid_values(grid)
    base = plan_jobs([file], overrides, variant, out)

    def variations(job: Job) -> Iterator[Job]:
        for combination in product(*values.values()):
            chosen = dict(zip(values, combination, strict=True))
            seed = chosen.pop(SEED, None)
            setting = ", ".join(f"{key}={value}" for key, value in chosen.items())
            folder = job.folder / _name(setting) / (f"seed-{_name(seed)}" if seed is not None else "")
            given = (*job.overrides, *(f"{key}={value}" for key, value in chosen.items()))
            seeds = (f"{SEED}={seed}",) if seed is not None else ()
            yield replace(job, overrides=(*given, *seeds), folder=folder, setting=setting)

    planned = varied(base, variations)
    return [replace(job, seed=job.spec.train.seed) for job in planned] if SEED in values else planned


def grid_values(grid: Sequence[str]) -> dict[str, list[str]]:
    """The values of every key, as they are written. Raises DualprocError if one does not have the form KEY=VALUES."""
    values: dict[str, list[str]] = {}
    for text in grid:
        key, _, listed_values = text.partition("=")
        found = _listed(listed_values)
        if not key.strip() or not found or not all(found):
            raise DualprocError(f"expected --grid KEY=VALUES, got `--grid {text}`", hint=_EXAMPLE)
        if key.strip() in values:
            raise DualprocError(f"`--grid {key.strip()}` is given twice", hint="name all its values in one option")
        values[key.strip()] = list(dict.fromkeys(found))
    count = 1
    for found in values.values():
        count *= len(found)
    if count > MOST:
        raise DualprocError(f"the grid has {count:,} combinations, at most {MOST:,} are allowed")
    return values


def _listed(text: str) -> list[str]:
    """`a,b` as [a, b], `2..4` as [2, 3, 4]; commas in brackets do not separate."""
    if ends := re.fullmatch(r"\s*(\d+)\.\.(\d+)\s*", text):
        first, last = int(ends[1]), int(ends[2])
        return [str(number) for number in range(first, min(last, first + MOST) + 1)]
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _name(text: str) -> str:
    """A setting as the name of a folder; with a hash of it where characters had to be replaced or cut off."""
    name = re.sub(r"[^\w.=+-]+", "-", text.replace(", ", "_"))
    if name == text.replace(", ", "_") and len(name) <= _LONGEST and name.strip("."):
        return name
    return f"{name[:_LONGEST]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}" if text else ""


def check_criterion(by: str, planned: Sequence[Job]) -> None:
    """Raise DualprocError if `by` is not a criterion, or if no job's spec measures it."""
    known = f"choose by {listed([f'`{name}`' for name in sweep.CRITERIA], most=len(sweep.CRITERIA))}"
    if "judge" in by:
        raise DualprocError("the judge cannot choose the best setting: training maximises its answer", hint=known)
    if by not in sweep.CRITERIA:
        raise DualprocError(f"`{by}` is not a criterion", hint=known)
    needs: Mapping[str, tuple[str, bool]] = {
        "on target": ("scorers", any(job.spec.scorers for job in planned)),
        "referee": ("referee", any(job.spec.referee for job in planned)),
        "kept": ("preserve", any(job.spec.preserve and job.spec.referee for job in planned)),
    }
    key, present = needs.get(by, ("", True))
    if not present:
        raise DualprocError(f"the spec does not measure `{by}`", hint=f"add `{key}` to the spec, or {known}")


@dataclass
class SweepResults(Results):
    """The results of a sweep so far."""

    by: str | None = None
    """The criterion of the best setting."""

    def conclusions(self) -> list[str]:
        """The best setting, once all are done."""
        return sweep.conclusions(self.sorted_rows(), self.by, planned=len(self.planned))

    def write(self) -> None:
        """Write the table, the gallery and the page of the rows so far."""
        super().write()
        rows, planned = self.sorted_rows(), len(self.planned)
        page = sweep.render_sweep(rows, by=self.by, planned=planned, command=self.command)
        write_atomically(self.out / f"{self.name}.html", page, durable=False)
