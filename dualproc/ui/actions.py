"""The functions behind the page: what each button and field does, with calls of the library."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from dualproc.engine.write import Writer, Written, cannot_write, write_prompts, write_questions
from dualproc.errors import DualprocError
from dualproc.report import render_curves
from dualproc.run import RunFolder
from dualproc.run.folder import WEIGHTS
from dualproc.run.images import preview_files, to_pillow
from dualproc.spec import TaskSpec, shipped_specs
from dualproc.spec.models import MAX_SLIDERS
from dualproc.wording import MISSING, number, plural

from . import layers as layers_of
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


def under(text: str) -> Any:
    """Mistakes of a field, shown under it; nothing without any."""
    return gr.update(
        value=f'<p class="dp-wrong" role="alert">{html.escape(text)}</p>' if text else "", visible=bool(text)
    )


def as_data(image: Any) -> str:
    """An image as text that a page can show."""
    small, buffer = image.width * image.height <= 640 * 640, io.BytesIO()
    image.save(buffer, "PNG" if small else "JPEG", **({} if small else {"quality": 92}))
    return f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}"


NEW_LAYER = -1
"""The choice of a layer that says: none."""


class Page:
    """The functions behind the page, for one runs folder. They take and return what components show."""

    def __init__(self, runs: Path, writer: Writer | None = None) -> None:
        """`writer` writes questions; by default the judge of the task."""
        self.runs, self.writer = runs, writer
        self.models = Models()
        self.queue = Queue(runs, self.models.release)

    # --- Task ---------------------------------------------------------------------------------------------------

    def start_from(self, name: str) -> str:
        """The text of a shipped spec (`shipped: NAME`), a run (`run: NAME`), or a new one."""
        kind, _, rest = name.partition(": ")
        if kind == "shipped":
            return task.shipped_text(rest, self.runs)
        return task.run_text(runs_of.run_at(rest, self.runs)) if kind == "run" else task.EMPTY

    def started(self, name: str | None) -> tuple[Any, ...]:
        """Text and form of what a task starts from; unchanged if the list was left without a choice."""
        if not name:
            return (gr.skip(),) * (len(task.Form.__dataclass_fields__) + 2)
        text = self.start_from(name)
        return text, *self.fields(text)

    def opened(self, kept: Any) -> tuple[Any, ...]:
        """Everything that the page shows first: text and variant that the browser has kept, or a new task."""
        known = isinstance(kept, list) and len(kept) == 2 and isinstance(kept[0], str)
        text, variant = kept if known else (task.EMPTY, None)
        return text, *self.fields(text), *self.checked(text, variant)

    def starts(self) -> list[tuple[str, str]]:
        """What a task can start from: what the list shows, and the name."""
        runs = [f"run: {runs_of.label(path, self.runs)}" for path in find_runs(self.runs)]
        about = task.about_shipped()
        shipped = [(f"{name}: {about[name]}" if about[name] else name, f"shipped: {name}") for name in shipped_specs()]
        return [("an empty task", "an empty task"), *shipped, *((one, one) for one in runs)]

    def asked_too(self, text: str, rows: Sequence[Sequence[Any]], question: str | None) -> tuple[Any, ...]:
        """Text and form with one more question, whose wanted answer is Yes, and the list without a choice."""
        asked = [row for row in rows if str(row[0]).strip()]
        form = self.fields(text)
        loaded = bool(text.strip())
        if not loaded or not question or question in [row[0] for row in asked]:
            return gr.skip(), *(gr.skip() for _ in form), gr.update(value=None)
        text = task.with_questions(text, [*asked, [question, "Yes"]])
        return text, *self.fields(text), gr.update(value=None)

    def checked(self, text: str, variant: str | None, kept: Any = None) -> tuple[Any, ...]:
        """Message, variants, command and base prompts for a text; without a variant, that of `kept`, or the first."""
        found = task.check(text, self.runs)
        wrong = [under(task.mistakes_at(found.problems, field)) for field in task.FIELDS]
        if found.loaded is None:
            return message(found.message, False), gr.skip(), "", gr.skip(), *self.may_write(None), *wrong
        variants = found.variants
        before = kept[1] if isinstance(kept, list) and len(kept) == 2 else None
        chosen = next((one for one in (variant, before, *variants) if one in variants), None)
        spec = found.chosen(chosen).require()
        prompts = [prompt.text for prompt in spec.prompts.train_prompts()][:50]
        return (
            message(found.message, not found.problems),
            gr.update(choices=variants, value=chosen, visible=bool(variants)),
            task.run_command(text, chosen, self.runs),
            gr.update(choices=prompts),
            *self.may_write(spec),
            *wrong,
        )

    def may_write(self, spec: TaskSpec | None) -> tuple[Any, ...]:
        """The two buttons that let a model write, and why they are off, or who writes."""
        why = "correct the mistakes of the task" if spec is None else ""
        if spec is not None and self.writer is None:
            why = cannot_write(spec.judges[0][1])
        by = self.writer.name if self.writer is not None else spec.judges[0][1].type if spec is not None else ""
        off = (
            f"Off: {why}. Choose a pretrained judge, or start the page with "
            "`dp ui --write-model NAME` (any OpenAI-compatible endpoint)."
        )
        on = (
            f"Written by `{by}`, by the instructions `{self.runs / task.SPECS}/write_questions.txt` and "
            "`write_prompts.txt`, which you can change. Ask what it writes (page Ask) before you train."
        )
        button = gr.update(interactive=not why)
        return button, button, off if why else on

    def write(self, kind: str, text: str, variant: str | None, count: float) -> tuple[Any, ...]:
        """Add what a model writes, `questions` or `prompts`, to the text; with the form, and a message."""
        spec = self.spec(text, variant)
        entries = spec.prompts.train, spec.prompts.eval

        def use(writer: Writer) -> Written:
            if kind == "questions":
                instruction = task.instruction("questions", self.runs)
                return write_questions(spec.prompts.template, writer, count=int(count), instruction=instruction)
            known, taken = ([one for one in part if isinstance(one, str)] for part in entries)
            if len(known) < len(entries[0]):
                raise DualprocError("only prompts of one text each can be expanded, not those with several fields")
            instruction = task.instruction("prompts", self.runs)
            return write_prompts(
                known, writer, template=spec.prompts.template, count=int(count), taken=taken, instruction=instruction
            )

        found = use(self.writer) if self.writer is not None else self.models.write(spec, use)
        if kind == "questions":
            new = [
                (one.template, one.answer if isinstance(one.answer, str) else one.answer[0]) for one in found.questions
            ]
            changed = task.with_written(text, new, found.by)
        else:
            changed = task.with_written_prompts(text, found.prompts, found.by)
        added = f"{plural(len(found.questions) + len(found.prompts), kind[:-1])} added, written by {found.by}"
        refused = "".join(f"\nrefused: {one}" for one in found.refused)
        return (
            changed,
            *self.fields(changed),
            message(f"{added}; the description says so. Ask them first{refused}", True),
        )

    def fields(self, text: str) -> tuple[Any, ...]:
        """The values of the form for a text, and all of them once more; unchanged if its YAML is not valid."""
        form = task.form(text)
        if form is None:
            return (gr.skip(),) * (len(task.Form.__dataclass_fields__) + 1)
        return *astuple(form), asdict(form)

    def edited(
        self, edits: Mapping[str, Callable[[str, Any], str]], text: str, shown: dict[str, Any], *values: Any
    ) -> Any:
        """The text after edits of the form, whose fields have `values`; `shown` is the form as the text last set it.

        Every field that was changed since then is applied, not only the last one: a field may be left before the text
        with the change of the one before has arrived. A field that is edited while the page still loads changes
        nothing: the text is empty then, and every field would count as changed.
        """
        if not text.strip():
            return gr.skip()
        changed = text
        for (key, edit), value in zip(edits.items(), values, strict=True):
            form = task.form(changed)
            if value != (shown or {}).get(key) and value is not None and (form is None or getattr(form, key) != value):
                changed = edit(changed, value)
        return gr.skip() if changed == text else changed

    def spec(self, text: str, variant: str | None) -> TaskSpec:
        """The spec with a variant. Raises DualprocError if it has mistakes."""
        return task.check(text, self.runs).chosen(variant).require()

    def save(self, text: str) -> tuple[str, str]:
        """Save the spec; returns a message and the file."""
        file = task.save(text, self.runs)
        return message(f"saved at {time.strftime('%H:%M:%S')}: {file}", True), str(file)

    # --- Visual prompt ------------------------------------------------------------------------------------------

    def look(self, text: str, variant: str | None, prompt: str | None, seed: float) -> tuple[Any, ...]:
        """What the judge sees, the base image, and the judge's answers."""
        spec = self.spec(text, variant)
        known = {one.text: one for one in spec.prompts.train_prompts()}
        found = self.models.look(spec, known.get(prompt or "") or next(iter(known.values())), int(seed or 0))
        return as_data(found.seen), found.base, [[question, wanted, number(p)] for question, wanted, p in found.rows]

    def layer_choices(self, rows: Sequence[Sequence[Any]], chosen: int | None) -> Any:
        """The list of layers, the topmost first, and a choice for none."""
        known = task.plugins_of("layer", rows)
        names = [(layers_of.name_of(index, layer), index) for index, layer in enumerate(known)]
        value = chosen if chosen is not None and chosen < len(known) else NEW_LAYER
        return gr.update(choices=[*reversed(names), ("none: the next one that is drawn", NEW_LAYER)], value=value)

    def picked(self, rows: Sequence[Sequence[Any]], chosen: int | None) -> tuple[Any, ...]:
        """Colour, thickness and text of the chosen layer; unchanged where it has none."""
        known = task.plugins_of("layer", rows)
        if chosen is None or not 0 <= chosen < len(known):
            return (gr.skip(),) * 3
        color, thickness, words = layers_of.look_of(known[chosen])
        return color or gr.skip(), gr.skip() if thickness is None else thickness, words

    def changed(
        self,
        change: Callable[[list[layers_of.Layer], int], int],
        text: str,
        rows: Sequence[Sequence[Any]],
        chosen: int | None,
        *blended: Any,
    ) -> tuple[Any, ...]:
        """Text, table and choice after a change of the layers, which returns the index of the layer to choose."""
        known: list[layers_of.Layer] = list(task.plugins_of("layer", rows))
        at = chosen if chosen is not None and 0 <= chosen < len(known) else NEW_LAYER
        at = change(known, at)
        new = task.rows_of(known)
        return task.with_layers(text, new, *blended), new, self.layer_choices(new, at), *self.picked(new, at)

    def gesture(
        self, text: str, rows: Any, chosen: int | None, blend: str, opacity: float,
        tool: str, color: str, thickness: float, words: str, event: gr.EventData,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Draw on the image: a new layer, or the chosen one is moved."""
        given = event._data if isinstance(event._data, dict) else {}
        points = layers_of.points_of(given.get("points"))
        color = layers_of.color_of(color)

        def change(known: list[layers_of.Layer], at: int) -> int:
            if tool == "Pick and move":
                found = layers_of.picked(known, points[0])
                at = at if found is None else found
                if at >= 0 and len(points) > 1 and points[0] != points[-1]:
                    known[at] = layers_of.moved(known[at], points)
            elif tool == "Free-hand":
                before = known[at].get("path") if at >= 0 and known[at].get("type") == "image" else None
                onto = before if isinstance(before, str) and before.startswith(layers_of.DRAWING) else None
                aspect = given.get("aspect")
                path = layers_of.stroke(
                    self.runs / task.SPECS, points, color=color, thickness=thickness, onto=onto,
                    aspect=aspect if isinstance(aspect, (int, float)) else 1.0,
                )  # fmt: skip
                if onto is not None:
                    known[at] = {**known[at], "path": path}
                else:
                    known.append({"type": "image", "path": path})
                    at = len(known) - 1
            else:
                known.append(layers_of.drawn(tool, points, color=color, thickness=thickness, text=words))
                at = len(known) - 1
            return at

        return self.changed(change, text, rows, chosen, blend, opacity)

    def uploaded(
        self, text: str, rows: Any, chosen: int | None, blend: str, opacity: float, event: gr.EventData
    ) -> tuple[Any, ...]:
        """An image of the user's becomes a layer."""
        given = event._data if isinstance(event._data, dict) else {}
        path = layers_of.upload(self.runs / task.SPECS, given.get("data"))

        def change(known: list[layers_of.Layer], _: int) -> int:
            known.append({"type": "image", "path": path})
            return len(known) - 1

        return self.changed(change, text, rows, chosen, blend, opacity)

    def act(
        self, what: str, text: str, rows: Any, chosen: int | None, blend: str, opacity: float, kind: str
    ) -> tuple[Any, ...]:
        """What a button does with the chosen layer: `up`, `down`, `hide`, `delete`, or `add` one of a `kind`."""

        def change(known: list[layers_of.Layer], at: int) -> int:
            if what == "add":
                known += task.plugins_of("layer", [[kind, task.LAYERS[kind]]])
                return len(known) - 1
            if at < 0:
                raise DualprocError("no layer is chosen", hint="choose one in the list of layers, or click on it")
            if what == "delete":
                del known[at]
                return min(at, len(known) - 1)
            if what == "hide":
                rest = {key: value for key, value in known[at].items() if key != "hidden"}
                known[at] = rest if known[at].get("hidden") else {**rest, "hidden": True}
                return at
            known[:], at = layers_of.ordered(known, at, 1 if what == "up" else -1)
            return at

        return self.changed(change, text, rows, chosen, blend, opacity)

    def restyled(
        self, text: str, rows: Any, chosen: int | None, blend: str, opacity: float,
        color: str, thickness: float, words: str,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Another colour, thickness or text for the chosen layer; without one, they are for the next one."""
        known = task.plugins_of("layer", rows)
        if chosen is None or not 0 <= chosen < len(known):
            return (gr.skip(),) * 6

        def change(known: list[layers_of.Layer], at: int) -> int:
            look: Mapping[str, Any] = {"color": layers_of.color_of(color), "thickness": thickness, "text": words}
            known[at] = layers_of.with_look(known[at], **look)
            return at

        return *self.changed(change, text, rows, chosen, blend, opacity)[:3], *(gr.skip(),) * 3

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
        """The names of all runs, and of the fits that have not written anything yet; the newest first."""
        found = runs_of.newest_first(find_runs(self.runs))
        queued = [runs_of.label(fit.job.folder, self.runs) for fit in reversed(self.queue.fits)]
        return list(dict.fromkeys([*queued, *(runs_of.label(path, self.runs) for path in found)]))

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
            return message("no run is chosen", True), "", "", "", ""
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

    def overview(self, chosen: list[str] | None, trained: str | None = None) -> tuple[Any, ...]:
        """Table, gallery and choices of the page Runs, and what `choose` returns for those that are chosen.

        Without a choice, the run of the page Train (`trained`) is chosen, or the first one.
        """
        names = runs_of.finished(self.runs)
        first = [trained] if trained in names else names[:1]
        kept = [name for name in chosen or [] if name in names] or first
        grids = sorted(runs_of.gallery(self.runs), key=lambda grid: grid[1] not in kept)  # the chosen ones come first
        listed = runs_of.table(self.runs), figures(grids), gr.update(choices=names, value=kept)
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
