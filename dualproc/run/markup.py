"""HTML and SVG from Python values. Text is escaped unless it is `Html`: nothing from a spec can become markup."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = ("img", "meta", "br")


class Html(str):
    """Text that is markup already."""


def tag(name: str, /, *children: str | Html | None, **attributes: object) -> Html:
    """An element. `class_` means `class`, `stroke_width` means `stroke-width`; None leaves a child or attribute out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def join(parts: Iterable[str | Html | None]) -> Html:
    """Parts in a row, escaped where they are not `Html`."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts if part is not None))
