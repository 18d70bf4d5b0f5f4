"""The engine: a spec's training loop, and the fit that runs it from start to run folder."""

from __future__ import annotations

from os import PathLike
from typing import Literal

from .fit import FitResult, Progress, fit
from .loop import Loop
from .notebook import NotebookProgress, in_notebook


class Engine(Loop):
    """The training loop of one spec (see `Loop`), with `fit` to run all of it."""

    def fit(
        self,
        out: str | PathLike[str] | None = None,
        *,
        resume: bool = False,
        overwrite: bool = False,
        progress: Progress | Literal["auto"] | None = "auto",
    ) -> FitResult:
        """Train, evaluate on held-out prompts and seeds, and write the run folder.

        `out` is the run folder, by default `runs/<name>` or `runs/<name>/<variant>`. `progress` receives every step;
        `auto` draws a bar in a notebook and nothing elsewhere, None draws nothing. See `dualproc.engine.fit.fit`.
        """
        if progress == "auto":
            progress = NotebookProgress() if in_notebook() else None
        return fit(self, out, resume=resume, overwrite=overwrite, progress=progress)
