"""What a request to the page may not do, whatever Gradio would allow."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .runs import inside

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]
REFUSED = (
    "/upload", "/proxy=", "/component_server", "/process_recording", "/deep_link", "/run-history", "/vibe-",
    "/undo-vibe", "/dev/", "/profiling", "/monitoring",
)  # fmt: skip
"""Parts of Gradio's routes that the page does not use: they write files, or fetch other addresses."""
MAX_BODY = 32 * 2**20
"""Bytes of the largest request: an image of `layers.MAX_BYTES`, encoded, and the text of a spec."""
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")


class Guard:
    """ASGI middleware: serves files of one folder only, links resolved, and refuses Gradio's uploads.

    Images for a visual prompt come as data of an event of the page, see `layers.upload`.

    With `local`, also refuses requests for other hosts than this machine, and those that a page of another site makes:
    it could otherwise reach the server by its address, or through a name that resolves to 127.0.0.1.
    """

    def __init__(self, app: App, *, folder: Path, local: bool) -> None:
        self.app, self.folder, self.local = app, folder, local

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        if scope["type"] == "http" and (reason := self.refusal(scope)):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": reason.encode()})
            return
        await self.app(scope, receive, send)

    def refusal(self, scope: Message) -> str:
        """Why a request is refused; empty if it is not."""
        path = str(scope["path"])
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        asked = [headers.get(b"host", ""), *([headers[b"origin"]] if b"origin" in headers else [])]
        if self.local and not all(_host(one) in LOCAL for one in asked):
            return "this page is served to this machine only"
        if not headers.get(b"content-length", "0").isdecimal() or b"transfer-encoding" in headers:
            return "a request must say how long it is"
        if int(headers.get(b"content-length", "0")) > MAX_BODY:
            return f"a request has at most {MAX_BODY // 2**20} MiB"
        if any(part in re.split(r"/file[=/]", path, maxsplit=1)[0] for part in REFUSED):
            return "the page does not use this address"
        for marker in ("/file=", "/file/"):
            _, found, file = path.partition(marker)
            if found and not inside(Path(unquote(file)), self.folder):
                return "only files of the runs folder are served"
        return ""


def _host(address: str) -> str:
    """The host of a `Host` or `Origin` header, without scheme and port; the whole address if it has more parts."""
    host = address.rpartition("://")[2]
    return re.sub(r"(?<=[\w.\]]):\d*$", "", host) if host not in LOCAL else host
