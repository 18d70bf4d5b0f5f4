"""`dp ui`: the page in the browser."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from dualproc.errors import DualprocError

from .arguments import given_folder
from .output import say


def ui(
    runs: Annotated[
        str, typer.Option(metavar="DIR", help="The folder of the runs: all that the page can read and write.")
    ] = "runs",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port.", show_default="the first free one from 7860")
    ] = None,
    write_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A model of an OpenAI-compatible endpoint that writes questions.",
            show_default="the judge of the task",
        ),
    ] = None,
    write_url: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="That endpoint.", show_default="OPENAI_BASE_URL, or OpenAI's"),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Write a task, check it, train and compare in the browser.

    Everything that the page does is a spec and a run folder: `dp run` repeats it. A fit continues when the
    page is closed. When this command ends, the fit ends after its training step, and can be resumed. The page has no
    password: whoever reaches the address can use it. Needs the extra `ui`: pip install 'dualproc[ui]'.

    \b
    dp ui
    dp ui --runs experiments --port 8000
    dp ui --write-model qwen3 --write-url http://127.0.0.1:8000/v1
    """
    if find_spec("gradio") is None:
        raise DualprocError("`dp ui` needs Gradio, which is not installed", hint="pip install 'dualproc[ui]'")
    folder: Path = given_folder(runs)
    from dualproc.ui.page import serve

    def started(address: str) -> None:
        say(f"dp ui: {address}  (runs in {folder}; Ctrl+C ends the page, and a fit after its training step)")

    writer = None
    if write_model is not None:
        from dualproc.engine.write import endpoint

        writer = endpoint(write_model, url=write_url)
    serve(folder, host=host, port=port, browser=browser, writer=writer, started=started)
