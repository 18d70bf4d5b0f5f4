"""The page itself: Gradio components, and which function of the library each of them calls."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dualproc import registry
from dualproc.cli.progress import quiet
from dualproc.errors import DualprocError
from dualproc.report import charts_css
from dualproc.spec.models import MAX_SLIDERS

from . import task
from .actions import Page
from .guard import LOCAL, Guard

CACHE = ".ui"
"""The subfolder of the runs folder for images that the page shows."""
TICK = 2.0
"""Seconds between two updates of the page Train."""
HELD_IMAGES = 4
"""Images of each run that the page Runs draws at most."""
CSS = """
.dp-message { margin: 0; padding: 10px 14px; border-radius: 8px; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace;
  border: 1px solid var(--border-color-primary); color: var(--body-text-color); }
.dp-message.bad { border-left: 4px solid #c4453c; }
.dp-message.good { border-left: 4px solid #1a8450; }
.dp-bar { height: 10px; border-radius: 5px; background: var(--border-color-primary); overflow: hidden; }
.dp-bar i { display: block; height: 100%; background: #17706c; }
.dp-page { width: 100%; height: 75vh; border: 1px solid var(--border-color-primary); border-radius: 8px; }
.gradio-container { max-width: min(1280px, 100vw) !important; margin: 0 auto; }
.gradio-container :is(.main, .wrap, main, .column, .tabs, .tabitem, .row, .form) { min-width: 0 !important; }
.gradio-container :is(main, .tabs, .tabitem, .column) { max-width: 100%; }
.html-container { padding: 0 !important; }
.grid-wrap.fixed-height { min-height: 0 !important; }
@media (max-width: 640px) {
  main.contain { padding: 0; }
  .row { flex-wrap: wrap; }
  .row > .column { flex: 1 1 100% !important; min-width: 100% !important; }
  .row > button { flex: 1 1 40%; }
  .row > .form { flex: 1 1 100%; }
  .table-wrap :is(th, td, span, div) { font-size: 11px !important; }
  .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
  .caption-label { max-width: 100% !important; white-space: normal !important; font-size: 11px !important; }
}
footer { display: none !important; }
.dp-charts { --card: var(--block-background-fill); --ink: var(--body-text-color);
  --soft: color-mix(in srgb, var(--body-text-color) 70%, transparent); --rule: var(--border-color-primary);
  --base: #8d8a84; --trained: #2a938d; --referee: #c9773c; --band: #17706c1f;
  display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 16px; }
.dp-charts { @@charts@@ }
.dp-charts figure.chart.chart { margin: 0; }
.dp-wide { max-width: 100%; height: auto; border-radius: 8px; }
"""


def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error of the library as a message of the page, and leave the page as it was."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except DualprocError as error:
            raise gr.Error(
                html.escape(str(error)).replace("\n", "<br>"), duration=None, print_exception=False
            ) from None

    return call


def on(event: Any, function: Callable[..., Any], inputs: Any = None, outputs: Any = None, **more: Any) -> Any:
    """Connect an event; none of them is offered to other programs."""
    return event(said(function), inputs, outputs, api_visibility="private", **{"show_progress": "hidden", **more})


def build(page: Page) -> Any:
    """The Gradio app of a page."""
    plugins = {kind: [entry.name for entry in registry.entries(kind)] for kind in ("generators", "judges")}
    with gr.Blocks(title="dualproc", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        kept = gr.BrowserState([], storage_key=f"dualproc-{page.runs.name}", secret="not a secret")
        gr.Markdown("# dualproc\nTrain a LoRA by asking a vision-language model about its images.")
        with gr.Tabs():
            with gr.Tab("Task", id="task"):
                with gr.Row():
                    start = gr.Dropdown(page.starts(), value=None, label="Start from", scale=3)
                    variant = gr.Dropdown([], value=None, label="Variant", visible=False, scale=1)
                with gr.Row():
                    with gr.Column(min_width=320):
                        name = gr.Textbox(label="Name")
                        template = gr.Textbox(label="Prompt template")
                        train = gr.Textbox(label="Training prompts, one on each line", lines=5, max_lines=10)
                        held = gr.Textbox(label="Held-out prompts, one on each line", lines=3, max_lines=8)
                        questions = gr.Dataframe(
                            headers=["question", "wanted answer"], type="array", column_count=2, wrap=True,
                            label="Questions to the judge", interactive=True, row_limits=(1, None),
                            column_limits=(2, 2), column_widths=["70%", "30%"],
                        )  # fmt: skip
                        with gr.Row():
                            generator = gr.Dropdown(plugins["generators"], label="Generator", min_width=120)
                            judge = gr.Dropdown(plugins["judges"], label="Judge", min_width=120)
                            referee = gr.Dropdown(["", *plugins["judges"]], label="Referee", min_width=120)
                        with gr.Row():
                            steps = gr.Number(label="Training steps", precision=0, minimum=1, min_width=120)
                            batch = gr.Number(label="Images per step", precision=0, minimum=1, min_width=120)
                            lr = gr.Number(label="Learning rate", min_width=120)
                            every = gr.Number(label="Preview every", precision=0, minimum=0, min_width=120)
                    with gr.Column(min_width=320):
                        text = gr.Code(
                            language="yaml", label="Spec (YAML)", interactive=True, lines=20, max_lines=32,
                            wrap_lines=True,
                        )  # fmt: skip
                        state = gr.HTML(apply_default_css=False)
                        with gr.Row():
                            save = gr.Button("Save", variant="primary", min_width=100)
                            download = gr.DownloadButton("Download the YAML", interactive=False, min_width=100)
                        about_saved = gr.HTML(apply_default_css=False)
                        command = gr.Code(
                            label="To repeat it: save, then run", language="shell", interactive=False, lines=2,
                            show_line_numbers=False, wrap_lines=True, buttons=["copy"],
                        )  # fmt: skip
            with gr.Tab("Visual prompt", id="visual") as visual_tab, gr.Row():
                with gr.Column(min_width=320):
                    layers = gr.Dataframe(
                        headers=["type", "parameters"], type="array", column_count=2, wrap=True, interactive=True,
                        label="Layers, from bottom to top", row_limits=(0, None), column_limits=(2, 2),
                        column_widths=["25%", "75%"],
                    )  # fmt: skip
                    with gr.Row():
                        kind = gr.Dropdown(list(task.LAYERS), value="line", label="New layer", min_width=120)
                        add = gr.Button("Add on top", min_width=100)
                        drop = gr.Button("Remove the top", min_width=100)
                    with gr.Row():
                        blend = gr.Radio(["solid", "alpha"], label="Blend", min_width=140)
                        opacity = gr.Slider(0, 1, label="Opacity, with alpha", min_width=140)
                    with gr.Row():
                        base_prompt = gr.Dropdown(
                            [], label="Base image of the training prompt", allow_custom_value=True, scale=2
                        )
                        base_seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
                    redraw = gr.Button("Draw", variant="primary")
                with gr.Column(min_width=320):
                    with gr.Row():
                        base = gr.Image(label="Base image", interactive=False, buttons=[], min_width=140)
                        view = gr.Image(label="What the judge sees", interactive=False, buttons=[], min_width=140)
                    answers = gr.Dataframe(
                        headers=["question", "wanted", "P(wanted)"], label="The judge's answers", wrap=True,
                        interactive=False, column_widths=["60%", "20%", "20%"],
                    )  # fmt: skip
            with gr.Tab("Ask", id="ask"):
                gr.Markdown(
                    "Ask judge and referee about images of the base generator, before you train. "
                    "A good question has a low P(wanted answer) that differs between images."
                )
                with gr.Row():
                    images = gr.Slider(4, 64, value=16, step=4, label="Base images", scale=3)
                    ask = gr.Button("Ask", variant="primary", min_width=100)
                findings = gr.HTML(apply_default_css=False)
                table = gr.Dataframe(
                    headers=["question and wanted answer", "asked", "P(wanted)", "without visual prompt"],
                    label="Answers: mean P(wanted answer), and its range over the images", wrap=True,
                    interactive=False, column_widths=["46%", "15%", "22%", "17%"],
                )  # fmt: skip
                seen = gr.Gallery(
                    label="What the judge sees, and P(wanted answer) to the first question", columns=4, buttons=[],
                    interactive=False, height="auto",
                )  # fmt: skip
            with gr.Tab("Train", id="train") as train_tab:
                with gr.Row():
                    go = gr.Button("Start or resume this task", variant="primary", min_width=150)
                    stop = gr.Button("Stop after this step", variant="stop", min_width=150)
                watched = gr.Dropdown([], label="Run")
                status, progress = gr.HTML(apply_default_css=False), gr.HTML(apply_default_css=False)
                previews, curves = gr.HTML(apply_default_css=False), gr.HTML(apply_default_css=False)
                shown_now = gr.State("")
            with gr.Tab("Runs", id="runs") as runs_tab:
                listed = gr.Dataframe(
                    headers=["run", "training steps", "result"], label="Runs", wrap=True, interactive=False,
                    column_widths=["22%", "16%", "62%"],
                )  # fmt: skip
                with gr.Accordion("Base and trained images of every run", open=False):
                    grids = gr.HTML(apply_default_css=False)
                chosen = gr.Dropdown([], multiselect=True, label="Chosen runs (several: side by side)")
                with gr.Row():
                    prompt = gr.Textbox(label="Prompt", scale=3)
                    seed = gr.Number(3, label="First seed", precision=0, minimum=0, min_width=80)
                    count = gr.Slider(1, HELD_IMAGES, value=2, step=1, label="Images", min_width=120)
                with gr.Row():
                    strength = gr.Slider(0, 2, value=1, step=0.05, label="Strength: 1 is as trained, 0 the base")
                    values = [gr.Slider(0, 1, visible=False) for _ in range(MAX_SLIDERS)]
                with gr.Row():
                    paint = gr.Button("Draw", variant="primary", min_width=100)
                    lora = gr.DownloadButton("Download the LoRA", interactive=False, min_width=100)
                    report = gr.Button("Report or comparison", min_width=100)
                    delete = gr.Button("Delete...", variant="stop", min_width=100)
                with gr.Row(visible=False) as sure:
                    really = gr.Button("Yes, delete the chosen runs for good", variant="stop", min_width=150)
                    cancel = gr.Button("Keep them", min_width=100)
                about_runs = gr.HTML(apply_default_css=False)
                drawn = gr.Gallery(
                    label="The same prompt and seeds", columns=4, buttons=[], interactive=False, height="auto"
                )
                opened = gr.HTML(apply_default_css=False)

        form = [name, template, train, held, questions, generator, judge, referee, steps, batch, lr, every, layers,
                blend, opacity]  # fmt: skip
        latest: dict[str, Any] = {"trigger_mode": "always_last"}

        # Task: the text is the only state; a field changes it, and every change is checked.
        on(text.change, page.checked, [text, variant, kept], [state, variant, command, base_prompt], **latest)
        for event in (text.change, variant.change):
            on(event, lambda *task: list(task), [text, variant], [kept], **latest)
        on(text.input, page.fields, [text], form, **latest)
        on(start.input, page.started, [start], [text, *form])
        on(variant.input, page.checked, [text, variant, kept], [state, variant, command, base_prompt])
        edits: list[tuple[str, Any, Callable[..., Any]]] = [
            ("name", name, functools.partial(_set, "name", str)),
            ("template", template, functools.partial(_set, "prompts.template", str)),
            ("train", train, functools.partial(_set_prompts, "train")),
            ("eval", held, functools.partial(_set_prompts, "eval")),
            ("questions", questions, task.with_questions),
            ("generator", generator, functools.partial(_set_plugin, "generator")),
            ("judge", judge, functools.partial(_set_plugin, "judge")),
            ("referee", referee, functools.partial(_set_plugin, "referee")),
            ("steps", steps, functools.partial(_set, "train.steps", int)),
            ("batch", batch, functools.partial(_set, "train.batch", int)),
            ("lr", lr, functools.partial(_set, "train.lr", float)),
            ("preview", every, task.with_preview),
        ]
        for key, field, edit in edits:
            # A text field says so when it is left, too: text that is pasted or dictated may come without a key.
            for event in (field.input, *([field.blur] if hasattr(field, "blur") else [])):
                on(event, functools.partial(_edited, key, edit), [text, field], [text], **latest)
        on(save.click, page.save, [text], [about_saved, download]).then(
            lambda: gr.update(interactive=True), None, [download], api_visibility="private", show_progress="hidden"
        )

        # Visual prompt: the same text; what is drawn follows each change.
        look = {
            "fn": said(page.look),
            "inputs": [text, variant, base_prompt, base_seed],
            "outputs": [base, view, answers],
        }
        follow: dict[str, Any] = {**look, "api_visibility": "private", "show_progress": "minimal"}
        for event in (layers.input, blend.input, opacity.release):
            on(event, task.with_layers, [text, layers, blend, opacity], [text]).success(**follow)
        on(add.click, _added_layer, [layers, kind], [layers]).then(
            said(task.with_layers), [text, layers, blend, opacity], [text], api_visibility="private"
        ).success(**follow)
        on(drop.click, lambda rows: rows[:-1], [layers], [layers]).then(
            said(task.with_layers), [text, layers, blend, opacity], [text], api_visibility="private"
        ).success(**follow)
        for event in (redraw.click, base_prompt.input, base_seed.input, visual_tab.select):
            event(**follow)

        on(ask.click, page.audit, [text, variant, images], [table, findings, seen], show_progress="full")

        # Train: a timer asks what the run folder says, so a page that was closed finds its fit again.
        timer = gr.Timer(TICK)
        tell = {"inputs": [watched, shown_now], "outputs": [status, progress, curves, previews, shown_now]}
        on(go.click, page.start, [text, variant], [watched, status])
        on(stop.click, page.stop, [watched], [status])
        on(timer.tick, page.progress, **tell)
        on(watched.input, page.progress, **tell)
        on(train_tab.select, page.watched, [watched], [watched]).then(
            said(page.progress), **tell, api_visibility="private", show_progress="hidden"
        )

        # Runs
        picked = [lora, prompt, *values]
        listing = {"inputs": [chosen], "outputs": [listed, grids, chosen, *picked]}
        on(runs_tab.select, page.overview, **listing)
        on(chosen.input, page.choose, [chosen], picked)
        draw: dict[str, Any] = {
            "inputs": [chosen, prompt, seed, count, strength, *values], "outputs": [drawn], "show_progress": "minimal",
        }  # fmt: skip
        for event in (paint.click, strength.release, prompt.submit, *(one.release for one in values)):
            on(event, page.draw, **draw)
        on(report.click, page.report, [chosen], [opened])
        on(delete.click, lambda: gr.update(visible=True), None, [sure])
        on(cancel.click, lambda: gr.update(visible=False), None, [sure])
        on(really.click, page.delete, [chosen], [about_runs]).then(
            said(page.overview), **listing, api_visibility="private"
        ).then(lambda: gr.update(visible=False), None, [sure], api_visibility="private")

        on(app.load, page.opened, [kept], [text, *form, state, variant, command, base_prompt])
        on(app.load, lambda: gr.update(choices=page.starts()), None, [start])
        on(app.load, page.watched, [watched], [watched])
    return app


def serve(
    runs: Path,
    *,
    host: str,
    port: int | None,
    browser: bool,
    started: Callable[[str], object] = lambda _: None,
    block: bool = True,
) -> tuple[Any, str]:
    """Serve the page until Ctrl+C (or, without `block`, return at once); returns the app and its address.

    `started` gets the address. Without `port`, the first free one from 7860. Raises DualprocError if the address cannot
    be used.
    """
    quiet()
    runs.mkdir(parents=True, exist_ok=True)
    cache = runs / CACHE
    cache.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(cache.resolve())
    page = Page(runs)
    page.queue.watch()
    from starlette.middleware import Middleware

    guard = Middleware(Guard, folder=runs, local=host in LOCAL)
    app = build(page)
    try:
        _, address, _ = app.queue(default_concurrency_limit=4, api_open=False).launch(
            server_name=host, server_port=port, inbrowser=browser, prevent_thread_lock=True, share=False, quiet=True,
            allowed_paths=[str(runs.resolve())], footer_links=[], run_history=False, ssr_mode=False, pwa=False,
            mcp_server=False, enable_monitoring=False, app_kwargs={"middleware": [guard]},
            css=CSS.replace("@@charts@@", charts_css()),
            theme=gr.themes.Default(primary_hue="teal", font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        )  # fmt: skip
    except OSError as error:
        raise DualprocError(f"cannot serve at {host}:{port}: {error}", hint="choose another --port") from error
    started(address)
    if block:
        app.block_thread()
    return app, address


def _set(path: str, kind: type, text: str, value: Any) -> Any:
    """One value of the form; a number that was cleared changes nothing."""
    return gr.skip() if value is None else task.with_value(text, path, kind(value))


def _edited(key: str, edit: Callable[..., Any], text: str, value: Any) -> Any:
    """The text after an edit of the form's field `key`; not touched if it has this value already."""
    form = task.form(text)
    return gr.skip() if form is not None and getattr(form, key) == value else edit(text, value)


def _set_prompts(key: str, text: str, lines: str) -> str:
    return task.with_prompts(text, key, lines)


def _set_plugin(key: str, text: str, name: str) -> str:
    return task.with_plugin(text, key, name)


def _added_layer(rows: Sequence[Sequence[Any]], kind: str) -> list[list[Any]]:
    return [*(list(row) for row in rows if any(row)), [kind, task.LAYERS[kind]]]
