"""The engine: a spec's training loop, and the fit that runs it from start to run folder."""

from __future__ import annotations

from os import PathLike

from .fit import FitResult, Progress, fit
from .loop import Loop


class Engine(Loop):
    """The training loop of one spec (see `Loop`), with `fit` to run all of it."""

    def fit(
        self,
        out: str | PathLike[str] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> FitResult:
        """Train, evaluate on held-out prompts and seeds, and write the run folder.

        `out` is the run folder, by default `runs/<name>` or `runs/<name>/<variant>`. See `dualproc.engine.fit.fit`.
        """
        return fit(self, out, resume=resume, overwrite=overwrite, progress=progress)
