"""The page itself: Gradio components, and which function of the library each of them calls."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from dualproc import registry
from dualproc.cli.progress import quiet
from dualproc.engine.write import Writer
from dualproc.errors import DualprocError
from dualproc.report import charts_css
from dualproc.spec.models import MAX_SLIDERS

from . import task
from .actions import NEW_LAYER, Page
from .guard import LOCAL, Guard
from .layers import MAX_PIXELS, TOOLS

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
.gradio-container.gradio-container { width: 100%; }
.gradio-container :is(.main, .wrap, main, .column, .tabs, .tabitem, .row, .form) { min-width: 0 !important; }
.gradio-container :is(main, .tabs, .tabitem, .column) { max-width: 100%; }
.html-container { padding: 0 !important; }
.grid-wrap.fixed-height { min-height: 0 !important; max-height: none !important; }
.table-wrap span.text { overflow-wrap: break-word !important; word-break: normal !important; }
@media (max-width: 640px) {
  main.contain { padding: 0; }
  .row { flex-wrap: wrap; }
  .row > .column { flex: 1 1 100% !important; min-width: 100% !important; }
  .row > button { flex: 1 1 40%; }
  .row > .form { flex: 1 1 100%; }
  .table-wrap :is(th, td, span, div) { font-size: 11px !important; }
  .table-wrap .cell-wrap { padding: 5px 3px !important; }
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
.dp-wrong { margin: 0; padding: 6px 10px; border-left: 4px solid #c4453c; white-space: pre-wrap; font-size: 13px;
  color: var(--body-text-color); }
.dp-canvas { position: relative; margin: 0; width: 100%; max-width: 560px; cursor: crosshair; user-select: none;
  touch-action: none; border: 1px solid var(--border-color-primary); }
.dp-canvas img { display: block; width: 100%; image-rendering: pixelated; }
.dp-canvas svg { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.dp-canvas :is(polyline, rect) { fill: none; stroke: #fff; stroke-width: 2px; vector-effect: non-scaling-stroke;
  paint-order: stroke; filter: drop-shadow(0 0 1px #000) drop-shadow(0 0 1px #000); }
.dp-canvas.empty { padding: 40% 16px; text-align: center; box-sizing: border-box; cursor: default; }
.dp-upload { display: block; padding: 8px 0; }
.dp-upload input { display: block; margin-top: 4px; max-width: 100%; }
.dp-wide { max-width: 100%; height: auto; border-radius: 8px; }
"""


CANVAS = """
{{#if value}}<figure class="dp-canvas"><img src="{{value}}" alt="What the judge sees: the base image under the visual
prompt" draggable="false"><svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true"></svg></figure>
{{else}}<p class="dp-canvas empty">The models are loaded, and the first image is drawn...</p>{{/if}}
"""
DRAW = """
let points = null;
const tool = () => document.querySelector('#dp-tool input:checked')?.value;
const at = event => {
  const box = element.querySelector('.dp-canvas img').getBoundingClientRect();
  const part = (value, low, size) => Math.min(1, Math.max(0, (value - low) / size));
  return [part(event.clientX, box.left, box.width), part(event.clientY, box.top, box.height)];
};
const show = () => {
  const svg = element.querySelector('.dp-canvas svg');
  const [a, b] = [points[0], points[points.length - 1]];
  const boxed = ['Box', 'Filled box', 'Swatches'].includes(tool());
  svg.innerHTML = boxed
    ? `<rect x="${Math.min(a[0], b[0])}" y="${Math.min(a[1], b[1])}" width="${Math.abs(a[0] - b[0])}"
        height="${Math.abs(a[1] - b[1])}"/>`
    : `<polyline points="${points.map(one => one.join(',')).join(' ')}"/>`;
};
element.addEventListener('pointerdown', event => {
  if (event.button || !event.target.closest('.dp-canvas:not(.empty)')) return;
  event.preventDefault();
  element.setPointerCapture(event.pointerId);
  points = [at(event)];
});
element.addEventListener('pointermove', event => {
  if (!points || points.length >= 4999) return;
  points = tool() === 'Free-hand' ? [...points, at(event)] : [points[0], at(event)];
  show();
});
element.addEventListener('pointerup', () => {
  if (!points) return;
  const image = element.querySelector('.dp-canvas img');
  trigger('drawn', {points, aspect: image.naturalWidth / image.naturalHeight});
  points = null;
});
element.addEventListener('pointercancel', () => { points = null; });
"""
UPLOAD = """
element.addEventListener('change', async event => {
  const file = event.target.files[0];
  if (!file) return;
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, Math.sqrt(@@pixels@@ / (image.width * image.height)));
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.floor(image.width * scale));
    canvas.height = Math.max(1, Math.floor(image.height * scale));
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    trigger('sent', {data: canvas.toDataURL('image/png')});
  } catch { trigger('sent', {data: ''}); }
  event.target.value = '';
});
"""
STEPS = (
    "**Start here.** A shipped task, such as *horizon*, is complete: choose it, then its variant, and train it. "
    "Or change the empty task below: your prompts, and what should be true of every image, as questions to a judge. "
    "The held-out prompts are not trained on: their images show whether the LoRA works. "
    "Then follow the tabs from left to right."
)


def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show an error as a message of the page, and leave the page as it was; one that we did not expect says so."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except DualprocError as error:
            raise gr.Error(
                html.escape(str(error)).replace("\n", "<br>"), duration=None, print_exception=False
            ) from None
        except gr.Error:
            raise
        except Exception as error:  # Gradio would show the word "Error" alone
            about = html.escape(f"unexpected {type(error).__name__}: {error}")
            raise gr.Error(f"{about}<br>the terminal of `dp ui` shows where", duration=None) from error

    return call


def on(event: Any, function: Callable[..., Any], inputs: Any = None, outputs: Any = None, **more: Any) -> Any:
    """Connect an event; none of them is offered to other programs."""
    return event(said(function), inputs, outputs, api_visibility="private", **{"show_progress": "hidden", **more})


def build(page: Page) -> Any:
    """The Gradio app of a page."""

    def about(field: str) -> None:
        """Where the mistakes of a field of `task.FIELDS` appear: under it."""
        wrong[field] = gr.HTML(visible=False, apply_default_css=False)

    wrong: dict[str, Any] = {}
    forward: list[tuple[Any, str]] = []
    kinds = ("generators", "judges", "rewards", "scorers")
    plugins = {kind: [entry.name for entry in registry.entries(kind)] for kind in kinds}
    with gr.Blocks(title="dualproc", analytics_enabled=False, delete_cache=(3600, 86400)) as app:
        shown = gr.State({})
        kept = gr.BrowserState([], storage_key=f"dualproc-{page.runs.name}", secret="not a secret")
        gr.Markdown("# dualproc\nTrain a LoRA by asking a vision-language model about its images.")
        with gr.Tabs() as tabs:
            with gr.Tab("Task", id="task"):
                gr.Markdown(STEPS)
                with gr.Row():
                    start = gr.Dropdown(
                        page.starts(), value=None, label="Start from", info="Replaces the task below.", scale=3,
                        min_width=280,
                    )  # fmt: skip
                    variant = gr.Dropdown([], value=None, label="Variant", visible=False, scale=1, min_width=140)
                with gr.Row():
                    with gr.Column(min_width=320):
                        name = gr.Textbox(label="Name")
                        about("name")
                        template = gr.Textbox(label="Prompt template")
                        about("template")
                        train = gr.Textbox(
                            label="Training prompts, one on each line", lines=5, max_lines=10,
                            info=f"The shipped models know {task.known_subjects('prompts.train')}.",
                        )  # fmt: skip
                        about("train")
                        held = gr.Textbox(
                            label="Held-out prompts, one on each line", lines=3, max_lines=8,
                            info=f"The shipped generator can also draw {task.known_subjects('prompts.eval')}; "
                            "the shipped judge was not trained on them.",
                        )  # fmt: skip
                        about("eval")
                        questions = gr.Dataframe(
                            headers=["question", "wanted answer"], type="array", column_count=2, wrap=True,
                            label="Questions to the judge. Empty a question to remove it.", interactive=True,
                            column_widths=["70%", "30%"],
                        )  # fmt: skip
                        about("questions")
                        known = gr.Dropdown(
                            task.known_questions(), value=None,
                            label="Add a question that the shipped judge can answer",
                            info="Questions about an overlaid line, palette or instruction need a visual prompt.",
                        )  # fmt: skip
                        with gr.Accordion("Let a model write questions and prompts", open=False):
                            about_writer = gr.Markdown()
                            with gr.Row():
                                write_count = gr.Number(4, label="How many", precision=0, min_width=80)
                                write_questions = gr.Button("Write questions for this prompt", interactive=False)
                                write_prompts = gr.Button("Expand the training prompts", interactive=False)
                            about_written = gr.HTML(apply_default_css=False)
                        with gr.Row():
                            generator = gr.Dropdown(plugins["generators"], label="Generator", min_width=120)
                            judge = gr.Dropdown(plugins["judges"], label="Judge", min_width=120)
                            referee = gr.Dropdown(["", *plugins["judges"]], label="Referee", min_width=120)
                        about("models")
                        with gr.Row():
                            steps = gr.Number(label="Training steps", precision=0, min_width=120)
                            batch = gr.Number(label="Images per step", precision=0, min_width=120)
                            lr = gr.Number(label="Learning rate", min_width=120)
                            every = gr.Number(label="Preview every", precision=0, min_width=120)
                        about("numbers")
                        with gr.Accordion("Suffix, reward, scorers", open=False):
                            suffix = gr.Textbox(
                                label="Suffix of every question", placeholder="Answer with Yes or No.",
                            )  # fmt: skip
                            reward = gr.Dropdown(plugins["rewards"], label="Reward")
                            scorers = gr.Dataframe(
                                headers=["type", "parameters"], type="array", column_count=2, wrap=True,
                                interactive=True, column_widths=["35%", "65%"],
                                label=f"Scorers: {', '.join(plugins['scorers'])}",
                            )  # fmt: skip
                            about("more")
                    with gr.Column(min_width=320):
                        text = gr.Code(
                            language="yaml", label="Spec (YAML)", interactive=True, lines=20, max_lines=32,
                            wrap_lines=True,
                        )  # fmt: skip
                        state = gr.HTML(apply_default_css=False)
                        with gr.Row():
                            save = gr.Button("Save", min_width=100)
                            download = gr.DownloadButton("Download the YAML", interactive=False, min_width=100)
                        about_saved = gr.HTML(apply_default_css=False)
                        command = gr.Code(
                            label="To repeat it: save, then run", language="shell", interactive=False, lines=2,
                            show_line_numbers=False, wrap_lines=True, buttons=["copy"],
                        )  # fmt: skip
                        forward.append((gr.Button("Next: the visual prompt", variant="primary"), "visual"))
            with gr.Tab("Visual prompt", id="visual") as visual_tab:
                gr.Markdown(
                    "Draw on the image what the questions are about, such as a line where the horizon should be. "
                    "Without a visual prompt, the judge sees the image alone."
                )
                with gr.Row():
                    with gr.Column(min_width=320):
                        tool = gr.Radio([*TOOLS], value="Line", label="Tool", elem_id="dp-tool")
                        hint = gr.Markdown(TOOLS["Line"])
                        canvas = gr.HTML("", html_template=CANVAS, js_on_load=DRAW, apply_default_css=False)
                        with gr.Row():
                            base_prompt = gr.Dropdown(
                                [], label="Base image of the training prompt", allow_custom_value=True, scale=2,
                                info="Empty: the first one.",
                            )  # fmt: skip
                            base_seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
                            redraw = gr.Button("Draw again", min_width=80)
                        answers = gr.Dataframe(
                            headers=["question", "wanted", "P(wanted)"], label="The judge's answers", wrap=True,
                            interactive=False, column_widths=["56%", "20%", "24%"],
                        )  # fmt: skip
                    with gr.Column(min_width=320):
                        layer = gr.Dropdown(
                            [("none: the next one that is drawn", NEW_LAYER)], value=NEW_LAYER, label="Layer",
                            info="What is set below belongs to this layer.",
                        )  # fmt: skip
                        with gr.Row():
                            up = gr.Button("Up", min_width=60)
                            down = gr.Button("Down", min_width=60)
                            hide = gr.Button("Hide or show", min_width=60)
                            erase = gr.Button("Delete the layer", variant="stop", min_width=60)
                        with gr.Row():
                            color = gr.ColorPicker("#ff0000", label="Colour", min_width=100)
                            thickness = gr.Slider(
                                0.002, 0.3, value=0.02, step=0.002, label="Thickness or font size", min_width=160
                            )
                        words = gr.Textbox(label="Text, label of a point, or colours of swatches")
                        sent = gr.HTML(
                            html_template='<label class="dp-upload">Add an image file as a layer'
                            '<input type="file" accept="image/*"></label>',
                            js_on_load=UPLOAD.replace("@@pixels@@", str(MAX_PIXELS)), apply_default_css=False,
                        )  # fmt: skip
                        with gr.Row():
                            blend = gr.Radio(["solid", "alpha"], label="Blend", min_width=140)
                            opacity = gr.Slider(0, 1, label="Opacity, with alpha", min_width=140)
                        with gr.Row():
                            jitter_x = gr.Number(label="Random shift sideways, ±", min_width=140, step=0.01)
                            jitter_y = gr.Number(label="Random shift up or down, ±", min_width=140, step=0.01)
                        layers = gr.Dataframe(
                            headers=["type", "parameters"], type="array", column_count=2, wrap=True, interactive=True,
                            label="Layers as a table, from bottom to top. [0, 0] is top left, [1, 1] bottom right.",
                            column_widths=["25%", "75%"],
                        )  # fmt: skip
                        about("layers")
                        with gr.Row():
                            kind = gr.Dropdown(list(task.LAYERS), value="line", label="New layer", min_width=120)
                            add = gr.Button("Add on top", min_width=100)
                        with gr.Accordion("Base image without the visual prompt", open=False):
                            base = gr.Image(label="Base image", interactive=False, buttons=[], min_width=140)
                forward.append((gr.Button("Next: ask the judge", variant="primary"), "ask"))
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
                    interactive=False, column_widths=["42%", "17%", "23%", "18%"],
                )  # fmt: skip
                forward.append((gr.Button("Next: train", variant="primary"), "train"))
                seen = gr.Gallery(
                    label="What the judge sees, and P(wanted answer) to the first question", columns=4, buttons=[],
                    interactive=False, height="auto",
                )  # fmt: skip
            with gr.Tab("Train", id="train") as train_tab:
                gr.Markdown(
                    "Trains the LoRA of the task in a process of its own: you may close this page. A run that is there "
                    "already is continued. Afterwards, draw with the LoRA on the page Runs."
                )
                with gr.Row():
                    go = gr.Button("Start or resume this task", variant="primary", min_width=150)
                    stop = gr.Button("Stop after this step", variant="stop", min_width=150)
                watched = gr.Dropdown([], label="Run")
                status, progress = gr.HTML(apply_default_css=False), gr.HTML(apply_default_css=False)
                forward.append((gr.Button("Next: draw with the LoRA", variant="primary"), "runs"))
                previews, curves = gr.HTML(apply_default_css=False), gr.HTML(apply_default_css=False)
                shown_now = gr.State("")
            with gr.Tab("Runs", id="runs") as runs_tab:
                listed = gr.Dataframe(
                    headers=["run", "steps", "result"], label="Runs", wrap=True, interactive=False,
                    column_widths=["22%", "16%", "62%"],
                )  # fmt: skip
                with gr.Accordion("Held-out prompts: base and trained images of every run", open=True):
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

        form = [name, template, train, held, questions, generator, judge, referee, steps, batch, lr, every, suffix,
                reward, scorers, layers, blend, opacity, jitter_x, jitter_y, shown]  # fmt: skip
        latest: dict[str, Any] = {"trigger_mode": "always_last"}
        checks = [state, variant, command, base_prompt, write_questions, write_prompts, about_writer,
                  *(wrong[field] for field in task.FIELDS)]  # fmt: skip

        # Task: the text is the only state; a field changes it, and every change is checked.
        on(text.change, page.checked, [text, variant, kept], checks, **latest)
        for event in (text.change, variant.change):
            on(event, lambda *task: list(task), [text, variant], [kept], **latest)
        on(text.input, page.fields, [text], form, **latest)
        on(start.input, page.started, [start], [text, *form])
        on(known.input, page.asked_too, [text, questions, known], [text, *form, known])
        on(variant.input, page.checked, [text, variant, kept], checks)
        edits: dict[str, tuple[Any, Callable[[str, Any], str]]] = {
            "name": (name, functools.partial(_set, "name", str)),
            "template": (template, functools.partial(_set, "prompts.template", str)),
            "train": (train, functools.partial(_set_prompts, "train")),
            "eval": (held, functools.partial(_set_prompts, "eval")),
            "questions": (questions, task.with_questions),
            "generator": (generator, functools.partial(_set_plugin, "generator")),
            "judge": (judge, functools.partial(_set_plugin, "judge")),
            "referee": (referee, functools.partial(_set_plugin, "referee")),
            "steps": (steps, functools.partial(_set, "train.steps", int)),
            "batch": (batch, functools.partial(_set, "train.batch", int)),
            "lr": (lr, functools.partial(_set, "train.lr", float)),
            "preview": (every, task.with_preview),
            "suffix": (suffix, task.with_suffix),
            "reward": (reward, functools.partial(_set_plugin, "reward")),
            "scorers": (scorers, task.with_scorers),
            "jitter_x": (jitter_x, functools.partial(_set_jitter, "x")),
            "jitter_y": (jitter_y, functools.partial(_set_jitter, "y")),
        }
        inputs = [field for field, _ in edits.values()]
        # A text field says so when it is left, too: text that is pasted or dictated may come without a key.
        triggers = [field.input for field in inputs] + [field.blur for field in inputs if hasattr(field, "blur")]
        apply = functools.partial(page.edited, {key: edit for key, (_, edit) in edits.items()})
        on(functools.partial(gr.on, triggers), apply, [text, shown, *inputs], [text], **latest)
        on(save.click, page.save, [text], [about_saved, download]).then(
            lambda: gr.update(interactive=True), None, [download], api_visibility="private", show_progress="hidden"
        )
        for what, button in (("questions", write_questions), ("prompts", write_prompts)):
            on(
                button.click, functools.partial(page.write, what), [text, variant, write_count],
                [text, *form, about_written], show_progress="full",
            )  # fmt: skip
        # Visual prompt: the same text; what is drawn follows each change.
        look = {
            "fn": said(page.look),
            "inputs": [text, variant, base_prompt, base_seed],
            "outputs": [canvas, base, answers],
        }
        follow: dict[str, Any] = {**look, "api_visibility": "private", "show_progress": "minimal"}
        now, after = [text, layers, layer, blend, opacity], [text, layers, layer, color, thickness, words]
        on(tool.input, lambda one: (TOOLS[one], _usual(one)), [tool], [hint, thickness])
        on(canvas.drawn, page.gesture, [*now, tool, color, thickness, words], after).success(**follow)
        on(sent.sent, page.uploaded, now, after).success(**follow)
        for what, button in (("up", up), ("down", down), ("hide", hide), ("delete", erase), ("add", add)):
            on(button.click, functools.partial(page.act, what), [*now, kind], after).success(**follow)
        for event in (color.input, thickness.release, words.blur, words.submit):
            on(event, page.restyled, [*now, color, thickness, words], after, **latest).success(**follow)
        on(layer.input, page.picked, [layers, layer], [color, thickness, words])
        listing_layers = {"fn": said(page.layer_choices), "inputs": [layers, layer], "outputs": [layer]}
        for event in (layers.input, visual_tab.select):  # not `change`: it would come with the choice of before
            event(**listing_layers, api_visibility="private", show_progress="hidden")
        for event in (layers.input, blend.input, opacity.release):
            on(event, task.with_layers, [text, layers, blend, opacity], [text]).success(**follow)
        for event in (redraw.click, base_prompt.input, base_seed.input, visual_tab.select):
            event(**follow)
        for button, target in forward:
            on(button.click, functools.partial(gr.Tabs, selected=target), None, [tabs])

        on(
            ask.click, page.audit, [text, variant, images], [table, findings, seen], show_progress="full",
            show_progress_on=[seen],
        )  # fmt: skip

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
        listing = {"inputs": [chosen, watched], "outputs": [listed, grids, chosen, *picked]}
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

        on(app.load, page.opened, [kept], [text, *form, *checks])
        on(app.load, lambda: gr.update(choices=page.starts()), None, [start])
        on(app.load, page.watched, [watched], [watched])
    return app


def serve(
    runs: Path,
    *,
    host: str,
    port: int | None,
    browser: bool,
    writer: Writer | None = None,
    started: Callable[[str], object] = lambda _: None,
    block: bool = True,
) -> tuple[Any, str]:
    """Serve the page until Ctrl+C (or, without `block`, return at once); returns the app and its address.

    `writer` writes questions; by default the judge of a task. `started` gets the address. Without `port`, the first
    free one from 7860. Raises DualprocError if the address cannot be used.
    """
    quiet()
    runs.mkdir(parents=True, exist_ok=True)
    cache = runs / CACHE
    cache.mkdir(exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(cache.resolve())
    page = Page(runs, writer)
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


def _set(path: str, kind: type, text: str, value: Any) -> str:
    return task.with_value(text, path, kind(value))


def _set_prompts(key: str, text: str, lines: str) -> str:
    return task.with_prompts(text, key, lines)


def _set_plugin(key: str, text: str, name: str) -> str:
    return task.with_plugin(text, key, name)


def _set_jitter(axis: str, text: str, most: float | None) -> str:
    return task.with_jitter(text, axis, most)


def _usual(tool: str) -> float:
    """The thickness or size that a tool starts with."""
    return {"Text": 0.1, "Free-hand": 0.03}.get(tool, 0.02)
