"""A server that answers like the Hugging Face hub, for the tests: the same addresses, status codes and headers."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS: Mapping[str, tuple[int, str, str]] = {
    "gated, not logged in": (401, "GatedRepo", "Access to this model is restricted. You must be authenticated."),
    "gated, no access": (403, "GatedRepo", "Access to this model is restricted. You are not in the authorized list."),
    "down": (503, "", "Service unavailable"),
}
"""The answers to a request for a file of such a repository: status, `X-Error-Code`, `X-Error-Message`."""


class _Answers(BaseHTTPRequestHandler):
    repositories: Mapping[str, str]

    def log_message(self, *_: object) -> None:
        pass

    def _say(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._say(status, {"error": message}, **({"X_Error_Code": code} if code else {}), X_Error_Message=message)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        asked = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)(?:/(resolve|revision|tree)/([^/]+)/?(.*))?", path)
        if asked is None:
            return self._say(404)
        name, what, revision, place = asked.groups()
        repository = self.repositories.get(name)
        if repository is None:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif repository in REFUSALS and (what == "resolve" or repository == "down"):
            self._refuse(*REFUSALS[repository])
        elif what and revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            self._serve(repository, what, place or "")
        return None

    do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

    def _serve(self, repository: str, what: str | None, place: str) -> None:
        folder = Path(repository)
        files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
        listed = {name: file for name, file in files.items() if name.startswith(place)}
        if what == "resolve" and place in files:
            content = files[place].read_bytes()
            self._say(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=COMMIT)
        elif what == "tree" and listed:
            tree = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": COMMIT} for n, f in listed.items()]
            self._say(200, tree)
        elif what in ("resolve", "tree"):
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._say(200, {"id": "", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})


def serve(repositories: Mapping[str, str]) -> tuple[str, ThreadingHTTPServer]:
    """The address of a new server, and the server. Each repository is a folder, or a key of REFUSALS."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_Ours", (_Answers,), {"repositories": repositories}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}", server
