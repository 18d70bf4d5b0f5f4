"""Warnings on their way to the user: kept for the report, and naming the referee where a judge plugin warns as one."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

from dualproc.errors import DualprocWarning
from dualproc.wording import printable

_PACKAGE = Path(__file__).resolve().parents[1]


def noting(notes: list[str]) -> AbstractContextManager[None]:
    """Within, add the text of every DualprocWarning to `notes`, each once; it is shown as usual."""

    def note(text: str) -> str:
        # A report names no folder of this machine.
        portable = printable(text).replace(f"{_PACKAGE}{os.sep}", "dualproc/")
        if portable not in notes:
            notes.append(portable)
        return text

    return _changed(note)


def speaking_as(role: str) -> AbstractContextManager[None]:
    """Within, a DualprocWarning about "the judge" is about the `role`: a judge plugin does not know its role."""
    return _changed(lambda text: re.sub("^the judge ", f"the {role} ", text))


@contextmanager
def _changed(change: Callable[[str], str]) -> Iterator[None]:
    """Within, every DualprocWarning is shown, with the text that `change` returns; errors stay errors (`-W error`)."""
    with warnings.catch_warnings():
        errors = [kind for action, _, kind, *_ in warnings.filters if action == "error"]
        if not issubclass(DualprocWarning, tuple(errors)):
            # Python shows a warning once per place: a second engine would not note it.
            warnings.filterwarnings("always", category=DualprocWarning)
        show = warnings.showwarning

        def changed(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, DualprocWarning):
                message = category(change(str(message)))
            show(message, category, filename, lineno, file, line)

        warnings.showwarning = changed
        yield
