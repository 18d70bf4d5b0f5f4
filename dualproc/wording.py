"""Wording that messages share: plurals, lists, numbers, durations, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

MISSING = "–"  # noqa: RUF001 (an en dash, as in printed tables)
"""Written in place of a number that was not measured, which is nan."""
NOT_MEASURED = "not measured"
"""Written in place of a scorer's mean or share if it has no value for any image."""
_COMPARED, _LISTED, _LONGEST_NAME = 1000, 20, 100
"""Limits: known names compared with a word, names listed in a hint, characters shown of each name."""
_LONGEST_CAUSE = 400
"""Characters shown of an exception's text: some libraries raise pages."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What can move the cursor, hide text or talk to a terminal, and what no file can hold; not tab and line feed."""
_CUTOFF = 0.66
"""Minimum similarity for a suggestion, from 0 to 1, as `difflib` defines it."""


def plural(count: int, noun: str) -> str:
    """A count with its noun: `1 step`, `2 steps`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listed(names: Sequence[str], *, most: int = 3) -> str:
    """The first `most` names of a list, then how many more there are: `a, b, c and 2 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def command(*words: object) -> str:
    """A command line that can be pasted into a shell, whatever paths and prompts are in it: `dp score 'my run'`."""
    return shlex.join(map(str, words))


def printable(text: str) -> str:
    r"""Text of any origin for a terminal or a file: control characters and lone surrogates as escapes, `\u001b`.

    In JSON, these are the escapes of JSON.
    """
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def cause(error: BaseException) -> str:
    """An exception of any code in one short line, `ValueError: text`, even if its own `__str__` raises."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be shown)"
    line = " ".join(f"{type(error).__name__}: {text[: 10 * _LONGEST_CAUSE]}".split()).removesuffix(":")
    return printable(line if len(line) <= _LONGEST_CAUSE else f"{line[:_LONGEST_CAUSE]}...")


def duration(seconds: float) -> str:
    """A duration in readable units: `8.4 s`, `1 min 5 s`, `2 h 3 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def number(value: float, *, digits: int = 3) -> str:
    """`value` with this many significant digits: 0.0243, 1.20, 43.8, 12,040."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    if abs(float(f"{value:.{digits}g}")) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def percent(share: float) -> str:
    """A share in [0, 1] as `91%`."""
    return f"{100 * share:.0f}%" if math.isfinite(share) else MISSING


def times(value: float) -> str:
    """A ratio as `1.1x`."""
    return f"{value:.{1 if value < 10 else 0}f}x" if math.isfinite(value) else MISSING


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """``did you mean `line`?`` for a misspelt name; None if no known name is similar."""
    names = [name[:_LONGEST_NAME] for name in islice(known, _COMPARED)]
    close = difflib.get_close_matches(word[:_LONGEST_NAME], names, n=1, cutoff=_CUTOFF)
    return f"did you mean `{close[0]}`?" if close else None


def nearest(word: str, known: Collection[str]) -> str:
    """A hint for an unknown name: the most similar known name, or a list of the known names."""
    if (found := suggestion(word, known)) is not None:
        return found
    if not known:
        return "no names are defined here"
    return f"known: {listed([name[:_LONGEST_NAME] for name in known], most=_LISTED)}"
