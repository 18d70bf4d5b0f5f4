"""The progress of a fit in a notebook: one bar that is redrawn in place, without widgets."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from dualproc.report.summary import step_note
from dualproc.types import StepRecord
from dualproc.wording import duration

REDRAWN_EVERY = 0.2
"""Seconds between two drawings, at least: a notebook keeps up with no more."""


def in_notebook() -> bool:
    """Whether this code runs in a notebook's kernel, and not in a script or a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookProgress:
    """A bar for training steps, then one for evaluated images; implements `dualproc.engine.fit.Progress`."""

    def __init__(self) -> None:
        """Raises ImportError without IPython."""
        from IPython import display  # type: ignore[import-not-found, unused-ignore]

        self._html: Any = display.HTML
        self._shown: Any = display.display(self._html(""), display_id=True)
        self._drawn = 0.0
        self._stage, self._first, self._began = "", 0, 0.0
        self._referee: float | None = None

    def step(self, record: StepRecord, total: int) -> None:
        """Show loss, reward and the referee's latest P(wanted answer)."""
        self._referee = self._referee if record.referee is None else record.referee
        self._draw("training", record.step, total, step_note(record, self._referee))

    def ending(self) -> None:
        """Confirm that the kernel was interrupted."""
        self._shown.update(self._html("Finishing this training step, then saving and evaluating the LoRA."))

    def images(self, done: int, total: int) -> None:
        """Show how many images are done."""
        self._draw("evaluating", done, total, "")

    def _draw(self, stage: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if stage != self._stage:  # steps before a resumed checkpoint took none of this session's time
            self._stage, self._first, self._began = stage, done, now
        elif now - self._drawn < REDRAWN_EVERY and done < total:
            return
        self._drawn = now
        each = (now - self._began) / (done - self._first) if done > self._first else None
        left = f", {duration(each * (total - done))} left" if each is not None and done < total else ""
        text = html.escape(f"{stage}: {done} of {total}{left}  {note}".rstrip())
        self._shown.update(self._html(f'<progress value="{done}" max="{total}"></progress> {text}'))
