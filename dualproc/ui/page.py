"""The page itself: Gradio components, and which function of the library each of them calls."""

from __future__ import annotations

import functools
import html
import os
from collections.abc import Callable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from dualproc import registry
from dualproc.cli.progress import quiet
from dualproc.errors import DualprocError
from dualproc.report import charts_css, render_curves
from dualproc.run import RunFolder
from dualproc.run.folder import WEIGHTS
from dualproc.run.images import preview_files, to_pillow
from dualproc.spec import TaskSpec, shipped_specs
from dualproc.spec.models import MAX_SLIDERS
from dualproc.wording import MISSING, number, plural

from . import runs as runs_of
from . import task
from .guard import LOCAL, Guard
from .models import Models, shown
from .queue import Queue
from .runs import find_runs

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


def message(text: str, good: bool) -> str:
    """Text in a box, for screen readers a status."""
    return f'<pre class="dp-message {"good" if good else "bad"}" role="status">{html.escape(text)}</pre>'


def framed(page: str) -> str:
    """A whole HTML page inside this one. It can run nothing, and reach nothing of the page around it."""
    return f'<iframe class="dp-page" sandbox="" title="report" srcdoc="{html.escape(page)}"></iframe>'


def figures(files: Sequence[tuple[Path, str]]) -> str:
    """Image files of the runs folder, the first one shown, the others folded."""
    parts = []
    for index, (file, about) in enumerate(files):
        source = f"gradio_api/file={quote(str(file.resolve()))}?{file.stat().st_mtime_ns}"
        parts.append(
            f"<details{'' if index else ' open'}><summary>{html.escape(about)}</summary>"
            f'<img class="dp-wide" loading="lazy" src="{source}" alt="{html.escape(about)}"></details>'
        )
    return "".join(parts)


def bar(share: float) -> str:
    """A bar of progress."""
    percent = round(100 * share)
    return (
        f'<div class="dp-bar" role="progressbar" aria-label="training steps done" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><i style="width:{percent}%"></i></div>'
    )


class Page:
    """The functions behind the page, for one runs folder. They take and return what components show."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.models = Models()
        self.queue = Queue(runs, self.models.release)

    # --- Task ---------------------------------------------------------------------------------------------------

    def start_from(self, name: str) -> str:
        """The text of a shipped spec (`shipped: NAME`), a run (`run: NAME`), or a new one."""
        kind, _, rest = name.partition(": ")
        if kind == "shipped":
            return task.shipped_text(rest, self.runs)
        return task.run_text(runs_of.run_at(rest, self.runs)) if kind == "run" else task.EMPTY

    def started(self, name: str) -> tuple[Any, ...]:
        """Text and form of what a task starts from."""
        text = self.start_from(name)
        return text, *self.fields(text)

    def opened(self, kept: Any) -> tuple[Any, ...]:
        """Everything that the page shows first: text and variant that the browser has kept, or a new task."""
        known = isinstance(kept, list) and len(kept) == 2 and isinstance(kept[0], str)
        text, variant = kept if known else (task.EMPTY, None)
        return text, *self.fields(text), *self.checked(text, variant)

    def starts(self) -> list[str]:
        """What a task can start from."""
        runs = [f"run: {runs_of.label(path, self.runs)}" for path in find_runs(self.runs)]
        return ["an empty task", *(f"shipped: {name}" for name in shipped_specs()), *runs]

    def checked(self, text: str, variant: str | None, kept: Any = None) -> tuple[Any, ...]:
        """Message, variants, command and base prompts for a text; without a variant, that of `kept`, or the first."""
        found = task.check(text, self.runs)
        good = found.loaded is not None
        if not good:
            return message(found.message, False), gr.skip(), "", gr.skip()
        variants = found.variants
        before = kept[1] if isinstance(kept, list) and len(kept) == 2 else None
        chosen = next((one for one in (variant, before, *variants) if one in variants), None)
        prompts = [prompt.text for prompt in found.chosen(chosen).require().prompts.train_prompts()][:50]
        return (
            message(found.message, True),
            gr.update(choices=variants, value=chosen, visible=bool(variants)),
            task.run_command(text, chosen, self.runs),
            gr.update(choices=prompts),
        )

    def fields(self, text: str) -> tuple[Any, ...]:
        """The values of the form for a text; unchanged if its YAML is not valid."""
        form = task.form(text)
        return astuple(form) if form is not None else (gr.skip(),) * len(task.Form.__dataclass_fields__)

    def spec(self, text: str, variant: str | None) -> TaskSpec:
        """The spec with a variant. Raises DualprocError if it has mistakes."""
        return task.check(text, self.runs).chosen(variant).require()

    def save(self, text: str) -> tuple[str, str]:
        """Save the spec; returns a message and the file."""
        file = task.save(text, self.runs)
        return message(f"saved: {file}", True), str(file)

    # --- Visual prompt ------------------------------------------------------------------------------------------

    def look(self, text: str, variant: str | None, prompt: str | None, seed: float) -> tuple[Any, ...]:
        """Base image, judge's view and the judge's answers."""
        spec = self.spec(text, variant)
        known = {one.text: one for one in spec.prompts.train_prompts()}
        found = self.models.look(spec, known.get(prompt or "") or next(iter(known.values())), int(seed or 0))
        return found.base, found.seen, [[question, wanted, number(p)] for question, wanted, p in found.rows]

    # --- Ask ----------------------------------------------------------------------------------------------------

    def audit(self, text: str, variant: str | None, images: float) -> tuple[Any, ...]:
        """Table, findings and images of `dp audit`."""
        found = self.models.audit(self.spec(text, variant), int(images))
        rows = [
            [
                f"{one.question.template} {one.question.candidates[one.question.wanted]}",
                one.role,
                f"{number(one.mean)} ({number(min(one.seen))} to {number(max(one.seen))})",
                MISSING if one.plain_mean is None else number(one.plain_mean),
            ]
            for one in found.answers
        ]
        findings = "\n".join(found.findings) or f"ok: nothing to point out on {plural(int(images), 'base image')}"
        pictures = [
            (shown(image), f"{prompt.text}: {number(p)}")
            for image, prompt, p in zip(to_pillow(found.judge_view), found.prompts, found.answers[0].seen, strict=True)
        ]
        return rows, message(findings, not found.findings), pictures

    # --- Train --------------------------------------------------------------------------------------------------

    def start(self, text: str, variant: str | None) -> tuple[Any, str]:
        """Queue the fit; returns the choices of runs with it chosen, and its status."""
        spec = self.spec(text, variant)
        fit = self.queue.add(text, spec, spec.variant if task.check(text, self.runs).variants else None)
        return self.watched(runs_of.label(fit.job.folder, self.runs)), message(self.queue.status(fit.job.folder), True)

    def stop(self, name: str | None) -> str:
        """Stop the fit of a run."""
        return message(self.queue.stop(self.folder(name)), True)

    def folder(self, name: str | None) -> Path:
        """The folder of a run in the list of the page Train. Raises DualprocError if there is none."""
        if not name or name not in self.fits():
            raise DualprocError("no run is chosen")
        return self.runs / name

    def fits(self) -> list[str]:
        """The names of all runs, and of the fits that have not written anything yet; the newest fit first."""
        queued = [runs_of.label(fit.job.folder, self.runs) for fit in reversed(self.queue.fits)]
        return list(dict.fromkeys([*queued, *(runs_of.label(path, self.runs) for path in find_runs(self.runs))]))

    def watched(self, name: str | None) -> Any:
        """The list of runs on the page Train; by default, one that is being trained is chosen."""
        names = self.fits()
        if name not in names:
            busy = self.queue.in_use()
            name = runs_of.label(busy, self.runs) if busy is not None else (names[0] if names else None)
        return gr.update(choices=names, value=name)

    def progress(self, name: str | None, before: str) -> tuple[Any, ...]:
        """Status, bar, curves and previews of a run, and what they were made from: unchanged parts are not sent."""
        if not name or name not in self.fits():
            return message("no run is chosen", True), bar(0), "", "", ""
        folder = self.runs / name
        status = self.queue.status(folder)
        run = RunFolder(folder)
        previews = preview_files(run.samples)
        now = f"{name} {status} {len(previews)}"
        if now == before:
            return (gr.skip(),) * 4 + (before,)
        failed = status.startswith("failed")
        pictures: Any = figures([(file, f"after step {step}: base above trained") for step, file in reversed(previews)])
        same_pictures = before.startswith(f"{name} ") and before.rsplit(" ", 1)[-1] == str(len(previews))
        curves = render_curves(run)
        return (
            message(status, not failed),
            bar(self.queue.progress(folder)),
            f'<div class="dp-charts">{curves}</div>' if curves else "",
            gr.skip() if same_pictures else pictures,
            now,
        )

    # --- Runs ---------------------------------------------------------------------------------------------------

    def overview(self, chosen: list[str] | None) -> tuple[Any, ...]:
        """Table, gallery and choices of the page Runs, and what `choose` returns for those that are chosen."""
        names = runs_of.finished(self.runs)
        kept = [name for name in chosen or [] if name in names] or names[:1]
        listed = runs_of.table(self.runs), figures(runs_of.gallery(self.runs)), gr.update(choices=names, value=kept)
        return *listed, *self.choose(kept)

    def choose(self, names: list[str]) -> tuple[Any, ...]:
        """The file to download, a prompt, and the sliders of the first chosen run."""
        if not names:
            return gr.update(value=None, interactive=False), gr.skip(), *[gr.update(visible=False)] * MAX_SLIDERS
        run = runs_of.run_at(names[0], self.runs)
        evaluation = run.read_evaluation()
        shown_sliders = [
            gr.update(
                visible=True, label=name, minimum=one.low, maximum=one.high, value=(one.low + one.high) / 2,
                step=(one.high - one.low) / 100,
            )
            for name, one in runs_of.sliders(names[0], self.runs).items()
        ]  # fmt: skip
        hidden = [gr.update(visible=False)] * (MAX_SLIDERS - len(shown_sliders))
        file = gr.update(value=str(run.path / WEIGHTS), interactive=True, label=f"Download the LoRA of {names[0]}")
        prompt = evaluation.prompts[0].text if evaluation is not None else gr.skip()
        return file, prompt, *shown_sliders, *hidden

    def draw(
        self, names: list[str], prompt: str, seed: float, count: float, strength: float, *values: float
    ) -> list[tuple[Any, str]]:
        """Images of every chosen run, and of the base of the first one, for the same prompt and seeds."""
        if not names or not prompt.strip():
            raise DualprocError("choose a run, and write a prompt")
        seeds = [int(seed or 0) + index for index in range(int(count))]
        at = dict(zip(runs_of.sliders(names[0], self.runs), values, strict=False))
        pictures: list[tuple[Any, str]] = []
        for name, much in [(names[0], 0.0), *((name, strength) for name in names)]:
            folder = runs_of.run_at(name, self.runs).path
            drawn = self.models.draw(folder, prompt, seeds, strength=much, values=at)
            about = "base" if much == 0 else f"{name}, strength {much:g}"
            pictures += [(image, f"{about}, seed {one}") for image, one in zip(drawn, seeds, strict=True)]
        return pictures

    def report(self, names: list[str]) -> str:
        """The report of one run, or the comparison of several."""
        return framed(runs_of.report(names, self.runs))

    def delete(self, names: list[str]) -> str:
        """Delete the chosen runs."""
        for name in names:
            runs_of.delete(name, self.runs)
        return message(f"deleted: {', '.join(names)}", True)


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
        on(save.click, page.save, [text], [state, download]).then(
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


def serve(runs: Path, *, host: str, port: int | None, browser: bool, block: bool = True) -> tuple[Any, str]:
    """Serve the page until Ctrl+C (or, without `block`, return at once); returns the app and its address.

    Without `port`, the first free one from 7860. Raises DualprocError if the address cannot be used.
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
    print(f"dp ui: {address}  (runs in {runs}; Ctrl+C ends the page, and a fit after its training step)", flush=True)
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
