"""The functions behind the page: what each button and field does, with calls of the library."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from dualproc.errors import DualprocError
from dualproc.report import render_curves
from dualproc.run import RunFolder
from dualproc.run.folder import WEIGHTS
from dualproc.run.images import preview_files, to_pillow
from dualproc.spec import TaskSpec, shipped_specs
from dualproc.spec.models import MAX_SLIDERS
from dualproc.wording import MISSING, number, plural

from . import runs as runs_of
from . import task
from .models import Models, shown
from .queue import Queue
from .runs import find_runs


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
        return message(f"saved at {time.strftime('%H:%M:%S')}: {file}", True), str(file)

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
        images_shown = [
            (shown(image), f"{prompt.text}: {number(p)}")
            for image, prompt, p in zip(to_pillow(found.judge_view), found.prompts, found.answers[0].seen, strict=True)
        ]
        return rows, message(findings, not found.findings), images_shown

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
        unchanged = before.startswith(f"{name} ") and before.rsplit(" ", 1)[-1] == str(len(previews))
        shown_previews = [(file, f"after step {step}: base above trained") for step, file in reversed(previews)]
        curves = render_curves(run)
        return (
            message(status, not failed),
            bar(self.queue.progress(folder)),
            f'<div class="dp-charts">{curves}</div>' if curves else "",
            gr.skip() if unchanged else figures(shown_previews),
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
        images_shown: list[tuple[Any, str]] = []
        for name, much in [(names[0], 0.0), *((name, strength) for name in names)]:
            folder = runs_of.run_at(name, self.runs).path
            drawn = self.models.draw(folder, prompt, seeds, strength=much, values=at)
            about = "base" if much == 0 else f"{name}, strength {much:g}"
            images_shown += [(image, f"{about}, seed {one}") for image, one in zip(drawn, seeds, strict=True)]
        return images_shown

    def report(self, names: list[str]) -> str:
        """The report of one run, or the comparison of several."""
        return framed(runs_of.report(names, self.runs))

    def delete(self, names: list[str]) -> str:
        """Delete the chosen runs."""
        for name in names:
            runs_of.delete(name, self.runs)
        return message(f"deleted: {', '.join(names)}", True)
