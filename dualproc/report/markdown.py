"""Text of any origin in Markdown, where it stays text: also in viewers that allow HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[\\`*|\[\]{}~$#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
"""Signs of Markdown; an underscore within a word is none."""
_BEGINS = re.compile(r"^[-+=>]|^\d+(?=[.)])")
"""What begins a list, a quotation or a heading at the start of a line."""
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def text(content: str) -> str:
    """Text in one line."""
    return _BEGINS.sub(_escaped, _within(content))


def _within(content: str) -> str:
    """Text that is not at the start of a line."""
    return _TAG.sub("&lt;", _SPECIAL.sub(_escaped, " ".join(content.split())).replace("&", "&amp;"))


def _escaped(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdecimal() else f"\\{found[0]}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose cells are text."""
    head, *lines = (f"| {' | '.join(map(_within, row))} |" for row in (headings, *rows))
    return "\n".join([head, f"| {' | '.join(['---'] * len(headings))} |", *lines])


def code(content: str) -> str:
    """A code span in one line; its fence is longer than any in the text."""
    line = " ".join(content.split())
    fence = _fence(line, 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def block(content: str, language: str) -> str:
    """A code block whose fence is longer than any in the text."""
    fence = _fence(content, 3)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"


def _fence(content: str, least: int) -> str:
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    return "`" * max(least, longest + 1)
