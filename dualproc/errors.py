"""Errors in the user's input. The command line prints them without a traceback and exits with code 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .wording import plural, printable


class DualprocError(Exception):
    """Base class of all dualproc errors: `message` says what is wrong, `hint` what to do; both are `printable`."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = printable(message)
        self.hint = hint if hint is None else printable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  {self.hint}"


@dataclass(frozen=True)
class Problem:
    """One mistake in a spec: where it is, what is wrong, what was expected."""

    message: str
    path: str = ""
    """Dotted path of the key, such as `train.lora.rank`."""
    source: str | None = None
    """The file (or `--set`) that the value comes from; None for a spec built in Python."""
    line: int | None = None
    column: int | None = None
    text: str | None = None
    """The line itself."""
    hint: str | None = None
    """What was expected, or the nearest known name."""

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line, self.column) if part is not None)
        lines = [": ".join(filter(None, (place, self.path, self.message)))]
        if self.text is not None:
            lines.append(f"    {self.text.rstrip()}")
            if self.column is not None:
                lines.append("    " + " " * (self.column - 1) + "^")
        if self.hint:
            lines.append(f"    {self.hint}")
        return "\n".join(lines)


class DualprocWarning(UserWarning):
    """The run continues, but probably not as the user intended."""


class SpecError(DualprocError):
    """A spec that cannot be used. `problems` holds every mistake, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        head = f"{plural(len(self.problems), 'mistake')} in the spec:"
        super().__init__("\n".join([head, *map(str, self.problems)]))


class PluginError(DualprocError):
    """A plugin that cannot be found, loaded or used."""


class RunError(DualprocError):
    """A run folder that cannot be written, read or resumed."""


class DamageError(RunError):
    """A file of a run that is damaged, or not a file that can be read."""


class NotFiniteError(DualprocError):
    """Loss or gradient was not finite in several training steps in a row; the LoRA is as it was before them."""


LESS_MEMORY = "not enough memory: `dp plan` shows settings that need less"
"""What to do if `is_out_of_memory`."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any library says that memory ran out, on a GPU or not."""
    return isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
