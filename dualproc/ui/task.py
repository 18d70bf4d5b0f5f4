"""The page Task: a spec as text, the form beside it, and what `dp spec check` says about it."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dualproc.cli.specs import copies
from dualproc.engine.write import read_instruction, shipped_instruction
from dualproc.errors import DualprocError, Problem, SpecError
from dualproc.resolve import SHIPPED, is_shipped, read_checked, toy_mix
from dualproc.run import RunFolder
from dualproc.run.files import as_run_error, make_folder, write_atomically
from dualproc.run.folder import SPEC
from dualproc.spec import LoadedSpec, TaskSpec, shipped_specs
from dualproc.spec.document import KeyPath
from dualproc.spec.editing import edited, line_of
from dualproc.spec.reading import read_text
from dualproc.wording import command

from .runs import inside

SPECS = "specs"
"""The subfolder of the runs folder that has the specs written in the page."""
DRAFT = "draft.yaml"
"""The name that messages give to the text in the page; such a file is not written."""
LAYERS = {
    "line": "from: [0, 0.5], to: [1, 0.5], width: 0.02, color: red",
    "box": "box: [0.1, 0.1, 0.5, 0.5], color: red",
    "points": "points: [{at: [0.3, 0.7], label: A}, {at: [0.7, 0.3], label: B}]",
    "swatches": "colors: [red, green, blue]",
    "text": "text: A, at: [0.5, 0.5]",
}
"""What a new layer of each type starts with."""
EMPTY = """\
schema_version: 1
name: my_task
description: ""

prompts:
  template: a cartoon of {subject}
  train: [a cat, a dog, a pig, a horse, a camel, a tree, a bear, a snail]
  eval: [an owl, a rabbit, a house]

question:
  - {template: "Is the sky blue?", answer: Yes}
  - {template: "Is this still a drawing of {subject}?", answer: Yes}
preserve:
  template: Is this still a drawing of {subject}?

generator: {type: tiny}
judge: {type: tiny}
referee: {type: tiny-referee}
anchor:
  - {type: base_denoise, weight: 4.0}
  - {type: base_image, norm: l1, blur: 0.03, share: 0.5, weight: 2.0}
train: {steps: 100, batch: 4, lr: 1.5e-4, preview: {every: 20}}
"""


@dataclass(frozen=True)
class Checked:
    """A spec's text after `dp spec check`: the spec, or every mistake."""

    loaded: LoadedSpec | None
    """None if there are mistakes."""
    message: str
    problems: tuple[Problem, ...] = ()
    """Every mistake; without one, words that the shipped generator does not know."""

    @property
    def variants(self) -> list[str]:
        """The names of the spec's variants; empty if it has none, one is fixed, or it has mistakes."""
        return list(self.loaded.variants) if self.loaded is not None and self.loaded.variant is None else []

    def chosen(self, variant: str | None) -> LoadedSpec:
        """The spec with a variant, by default the first. Raises DualprocError with the mistakes if it has any."""
        if self.loaded is None:
            raise DualprocError("the spec has mistakes", hint=self.message)
        if not self.variants:
            return self.loaded
        return self.loaded.for_variant(variant if variant in self.variants else self.variants[0])


def check(text: str, runs: Path) -> Checked:
    """What `dp spec check` says about a text. Paths in it start in the runs folder's `specs`, and stay inside it."""
    file = runs / SPECS / DRAFT
    try:
        loaded = read_checked(file, text=text)
        spec = loaded.each()[0].require()
    except SpecError as error:
        return Checked(None, str(error).replace(f"{file}:", "line ").replace(f"{file}: ", ""), error.problems)
    except DualprocError as error:
        return Checked(None, str(error))
    mixed, unknown = toy_mix(spec), _unknown_words(spec)
    warnings = [*filter(None, [mixed]), *(f"{one.path}: {one.message}: {one.hint}" for one in unknown)]
    ok = f"ok: {spec.name} can be trained"
    return Checked(loaded, "\n".join([ok, *(f"warning: {one}" for one in warnings)]), unknown)


def _unknown_words(spec: TaskSpec) -> tuple[Problem, ...]:
    """The words of training and held-out prompts that the shipped generator does not know; none for another one."""
    if not is_shipped("generators", spec.generator):
        return ()
    prompts = {"prompts.train": spec.prompts.train_prompts(), "prompts.eval": spec.prompts.eval_prompts()}
    found = []
    for path, each in prompts.items():
        words = dict.fromkeys(word for one in each for word in re.findall(r"\w+", one.text.lower()))
        if unknown := [word for word in words if word not in _drawn_words()]:
            message = f"the shipped generator does not know the words: {', '.join(unknown)}"
            found.append(Problem(message, path, hint=f"it knows {known_subjects(path)}"))
    return tuple(found)


@functools.cache
def _drawn_words() -> frozenset[str]:
    """The words that the tokenizer of the shipped generator knows; all are in lower case."""
    file = SHIPPED / "generator" / "tokenizer" / "tokenizer.json"
    return frozenset(json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"])


@functools.cache
def known_subjects(path: str) -> str:
    """The subjects of the shipped horizon task, for `prompts.train` or `prompts.eval`: the shipped models know them."""
    prompts = _mapping((_plain(shipped_specs()["horizon"].read_text(encoding="utf-8")) or {}).get("prompts"))
    return ", ".join(str(one) for one in _list(prompts.get(path.removeprefix("prompts."))))


FIELDS = {
    "name": ("name",),
    "template": ("prompts.template",),
    "train": ("prompts.train",),
    "eval": ("prompts.eval", "prompts"),
    "questions": ("question", "preserve"),
    "models": ("generator", "judge", "referee"),
    "numbers": ("train.steps", "train.batch", "train.lr", "train.preview"),
    "more": ("reward", "scorers"),
    "layers": ("visual_prompt",),
}
"""The fields of the form, or groups of them, and the keys of a spec whose mistakes are shown under each."""


def mistakes_at(problems: Sequence[Problem], field: str) -> str:
    """The mistakes of a field or group of `FIELDS`, one on each line; empty if it has none."""
    prefixes = FIELDS[field]
    more_exact = [path for name, paths in FIELDS.items() if name != field for path in paths]

    def belongs(path: str) -> bool:
        own = [prefix for prefix in prefixes if path == prefix or path.startswith(f"{prefix}.")]
        return any(not any(len(one) > len(p) and path.startswith(one) for one in more_exact) for p in own)

    return "\n".join(": ".join(filter(None, (one.message, one.hint))) for one in problems if belongs(one.path))


def shipped_text(name: str, runs: Path) -> str:
    """The text of a shipped spec; files that it extends or uses are copied to where its paths start.

    Raises DualprocError if the spec does not exist, or a file cannot be written.
    """
    shipped = shipped_specs()
    if name not in shipped:
        raise DualprocError(f"no shipped spec is called '{name}'")
    target = runs / SPECS / f"{Path(name).name}.yaml"  # not written, but named in the comments of the copy
    files = copies(name, shipped[name], target)
    text = files.pop(target).decode("utf-8")
    for path, data in files.items():
        make_folder(path.parent)
        write_atomically(path, data)
    return text


def run_text(run: RunFolder) -> str:
    """The text that a run's spec was written as."""
    path = run.path / SPEC
    with as_run_error("read", path):
        return path.read_text(encoding="utf-8")


@functools.cache
def about_shipped() -> dict[str, str]:
    """What each shipped spec is for: the first sentence of its description, without the values of its variants."""
    found = {}
    for name, file in shipped_specs().items():
        about = str((_plain(file.read_text(encoding="utf-8")) or {}).get("description") or "")
        found[name] = re.sub(r"\{\w+\}", "...", about.split(". ")[0].rstrip("."))
    return found


@functools.cache
def known_questions() -> list[str]:
    """The questions of the shipped specs for the shipped judge, which knows few words."""
    specs = [name for name in shipped_specs() if not name.startswith("real/")]
    texts = [shipped_specs()[name].read_text(encoding="utf-8") for name in specs]
    asked = [str(_mapping(one).get("template", "")) for text in texts for one in _questions(_plain(text) or {})]
    return list(dict.fromkeys(one for one in asked if one and one != "{asked}"))


def instruction(kind: Literal["questions", "prompts"], runs: Path) -> str:
    """The text that tells a model to write: `specs/write_KIND.txt`, which is made from the shipped text if needed.

    Raises DualprocError if it cannot be read or written.
    """
    file = runs / SPECS / f"write_{kind}.txt"
    if not inside(file, runs):
        raise DualprocError(f"{file} leads out of the runs folder", hint="delete this link")
    if not file.exists():
        make_folder(file.parent)
        write_atomically(file, shipped_instruction(kind))
    return read_instruction(file)


def save(text: str, runs: Path) -> Path:
    """Write a valid spec to `specs/NAME.yaml` in the runs folder; returns the file.

    Raises DualprocError if the spec has mistakes, or the file cannot be written.
    """
    name = check(text, runs).chosen(None).require().name  # letters, digits, `_` and `-`
    file = runs / SPECS / f"{name}.yaml"
    make_folder(file.parent)
    write_atomically(file, text)
    return file


def run_command(text: str, variant: str | None, runs: Path) -> str:
    """The `dp run` command of a spec once it is saved; empty if it has mistakes."""
    checked = check(text, runs)
    if checked.loaded is None:
        return ""
    spec = checked.chosen(variant).require()
    words = ["--variant", spec.variant] if spec.variant else []
    target = runs / spec.name / (spec.variant or "")
    return command("dp", "run", runs / SPECS / f"{spec.name}.yaml", *words, "--out", target)


# --- the form -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """The values of a spec that the form shows; empty where the text has none, or another structure."""

    name: str
    template: str
    train: str
    """Training prompts, one on each line; a mapping of fields is written as `{a: a cat, b: a dog}`."""
    eval: str
    questions: list[list[str]]
    """Template and wanted answer of each question; several wordings of an answer are separated by ` | `."""
    generator: str
    judge: str
    referee: str
    steps: float | None
    batch: float | None
    lr: float | None
    preview: float | None
    """Training steps from one preview to the next; 0 for none."""
    suffix: str
    """What is added after every question; empty for the default, and if the questions differ."""
    reward: str
    scorers: list[list[str]]
    """Type and parameters (YAML) of each scorer."""
    layers: list[list[str]]
    """Type and parameters (YAML) of each layer of the visual prompt, from bottom to top."""
    blend: str
    opacity: float
    jitter_x: float | None
    """Largest random shift of the visual prompt to either side, as a share of the width; None if it is one-sided."""
    jitter_y: float | None


def form(text: str) -> Form | None:
    """The form for a text; None if its YAML is not valid."""
    data = _plain(text)
    if data is None:
        return None
    prompts, train, view = (_mapping(data.get(key)) for key in ("prompts", "train", "visual_prompt"))
    return Form(
        name=str(data.get("name") or ""),
        template=str(prompts.get("template", "{subject}")),
        train=_lines(prompts.get("train")),
        eval=_lines(prompts.get("eval")),
        questions=[_question_row(one) for one in _questions(data)] or [["", "Yes"]],
        generator=_type(data.get("generator", {"type": "tiny"})),
        judge=_type(data.get("judge", {"type": "tiny"})),
        referee=_type(data.get("referee")),
        steps=_number(train.get("steps", 100)),
        batch=_number(train.get("batch", 4)),
        lr=_number(train.get("lr", 1e-4)),
        preview=_number(_mapping(train.get("preview")).get("every", 20)) if train.get("preview") is not None else 0,
        suffix=_suffix(_questions(data)),
        reward=_type(data.get("reward", {"type": TaskSpec.model_fields["reward"].default.type})),
        scorers=rows_of(_list(data.get("scorers"))),
        layers=rows_of(_list(view.get("layers"))),
        blend=str(view.get("blend", "solid")),
        opacity=_number(view.get("opacity", 0.5)) or 0.0,
        jitter_x=_jitter(view, "x"),
        jitter_y=_jitter(view, "y"),
    )


def with_value(text: str, path: str, value: Any) -> str:
    """The text with a value of the form at a dotted path. Raises DualprocError if it cannot be edited."""
    return edited(text, tuple(path.split(".")), value)


def with_preview(text: str, every: float | None) -> str:
    """The text with a preview every few steps; none with 0."""
    if not every:
        train = _mapping((_plain(text) or {}).get("train"))
        return edited(text, ("train", "preview"), None) if train.get("preview") is not None else text
    return edited(text, ("train", "preview", "every"), int(every))


def with_plugin(text: str, key: str, name: str) -> str:
    """The text with another plugin at `generator`, `judge` or `referee`; the parameters of the old one are dropped."""
    old = _mapping((_plain(text) or {}).get(key))
    if old.get("type") == name:
        return text
    return edited(text, (key,), {"type": name} if name else None)


def with_prompts(text: str, key: str, lines: str) -> str:
    """The text with other training prompts (`train`) or held-out prompts (`eval`), one on each line."""
    entries = [_entry(line.strip()) for line in lines.splitlines() if line.strip()]
    return edited(text, ("prompts", key), entries)


def with_questions(text: str, rows: Sequence[Sequence[Any]]) -> str:
    """The text with other questions; keys that the form does not show, such as `suffix`, stay with their question.

    Paraphrases go with the text that they are of.
    """
    old = [_mapping(one) for one in _questions(_plain(text) or {})]
    by_template = {str(one.get("template")): one for one in old}
    questions = []
    for index, row in enumerate(rows):
        template, answer = (str(cell or "").strip() for cell in (*row, "", "")[:2])
        if not template:
            continue
        before = by_template.get(template)
        if before is None:  # another text in this row: paraphrases of the old one would be asked beside it
            replaced = old[index] if index < len(old) else {}
            before = {key: value for key, value in replaced.items() if key != "paraphrases"}
        wordings = [part.strip() for part in answer.split(" | ")]
        questions.append({**before, "template": template, "answer": wordings if len(wordings) > 1 else answer or "Yes"})
    single = len(questions) == 1 and isinstance((_plain(text) or {}).get("question"), dict)
    return edited(text, ("question",), questions[0] if single else questions)


def with_suffix(text: str, suffix: str) -> str:
    """The text with the same suffix after every question; the default with an empty one."""
    given = _plain(text) or {}
    questions = []
    for one in _questions(given):
        rest = {key: value for key, value in _mapping(one).items() if key != "suffix"}
        questions.append({**rest, "suffix": suffix.strip()} if suffix.strip() else rest)
    single = isinstance(given.get("question"), dict)
    return edited(text, ("question",), questions[0] if single else questions) if questions else text


def with_scorers(text: str, rows: Sequence[Sequence[Any]]) -> str:
    """The text with other scorers. Raises DualprocError if the parameters of one are not YAML."""
    scorers = plugins_of("scorer", rows)
    before = _list((_plain(text) or {}).get("scorers"))
    return edited(text, ("scorers",), scorers) if scorers != before else text


def with_jitter(text: str, axis: str, most: float | None) -> str:
    """The text with a random shift of the visual prompt along `axis`, `x` or `y`, of at most `most` to either side."""
    if not _mapping((_plain(text) or {}).get("visual_prompt")) or most is None:
        return text
    return edited(text, ("visual_prompt", "jitter", axis), [-most, most])


def with_layers(text: str, rows: Sequence[Sequence[Any]], blend: str, opacity: float) -> str:
    """The text with another visual prompt; without layers, it has none.

    Raises DualprocError if the parameters of a layer are not YAML such as `from: [0, .5], to: [1, .5]`.
    """
    layers = plugins_of("layer", rows)
    old = _mapping((_plain(text) or {}).get("visual_prompt"))
    if not layers:
        return edited(text, ("visual_prompt",), None) if old else text
    changed = text
    new: dict[str, Any] = {"layers": layers}
    if blend != old.get("blend", "solid"):
        new["blend"] = blend
    if opacity != old.get("opacity", 0.5):
        new["opacity"] = opacity
    for key, value in new.items():
        path: KeyPath = ("visual_prompt", key)
        changed = edited(changed, path, value) if old.get(key) != value else changed
    return changed


def with_written(text: str, questions: Sequence[tuple[str, str]], by: str) -> str:
    """The text with further questions (template, wanted answer); its description says who wrote them."""
    given = _questions(_plain(text) or {})
    new = [{"template": template, "answer": answer} for template, answer in questions]
    changed = edited(text, ("question",), [*given, *new])
    return _described(changed, f"Questions written by {by}: {'; '.join(template for template, _ in questions)}")


def with_written_prompts(text: str, entries: Sequence[str], by: str) -> str:
    """The text with further training prompts; its description says who wrote them."""
    data = _plain(text) or {}
    changed = edited(text, ("prompts", "train"), [*_list(_mapping(data.get("prompts")).get("train")), *entries])
    return _described(changed, f"Training prompts written by {by}: {', '.join(entries)}")


def _described(text: str, note: str) -> str:
    before = str((_plain(text) or {}).get("description") or "").strip()
    note = note.replace("{", "(").replace("}", ")")  # a description may use placeholders of variants only
    return edited(text, ("description",), f"{before} {note}".strip())


def plugins_of(what: str, rows: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    """The plugins (`what`: layer or scorer) of a table of types and parameters (YAML).

    Raises DualprocError if the parameters of a row are not YAML.
    """
    cells = [[str(cell or "").strip() for cell in (*row, "", "")[:2]] for row in rows]
    return [{"type": kind, **_params(what, kind, params)} for kind, params in cells if kind]


def rows_of(plugins: Sequence[Any]) -> list[list[str]]:
    """The table of `plugins_of`."""
    return [_layer_row(one) for one in plugins]


def _plain(text: str) -> dict[str, Any] | None:
    document, _ = read_text(text, DRAFT)
    data = document.plain() if document is not None else None
    return data if isinstance(data, dict) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _type(value: Any) -> str:
    """The name of a plugin; empty for none, and for a list of several."""
    return str(_mapping(value).get("type") or "")


def _questions(data: Mapping[str, Any]) -> list[Any]:
    given = data.get("question")
    return given if isinstance(given, list) else [given] if given else []


def _suffix(questions: Sequence[Any]) -> str:
    given = {str(_mapping(one).get("suffix", "")) for one in questions}
    return given.pop() if len(given) == 1 else ""


def _jitter(view: Mapping[str, Any], axis: str) -> float | None:
    bounds = _list(_mapping(view.get("jitter")).get(axis, [0, 0]))
    low, high = map(_number, bounds) if len(bounds) == 2 else (None, None)
    return high if low is not None and high is not None and low == -high else None


def _question_row(question: Any) -> list[str]:
    answer = _mapping(question).get("answer", "Yes")
    wordings = answer if isinstance(answer, list) else [answer]
    return [str(_mapping(question).get("template") or ""), " | ".join(map(str, wordings))]


def _layer_row(layer: Any) -> list[str]:
    params = {key: value for key, value in _mapping(layer).items() if key != "type"}
    return [str(_mapping(layer).get("type") or ""), line_of(params)[1:-1]]


def _params(what: str, kind: str, written: str) -> dict[str, Any]:
    data = _flow(f"{{{written}}}")
    if data is None:
        message = f"the parameters of the {what} `{kind}` are not valid YAML: {written}"
        hint = "target: 0.5" if what == "scorer" else "from: [0, 0.5], to: [1, 0.5], color: red"
        raise DualprocError(message, hint=f"for example {hint}")
    return data


def _lines(entries: Any) -> str:
    return "\n".join(entry if isinstance(entry, str) else line_of(entry) for entry in _list(entries))


def _entry(line: str) -> Any:
    fields = _flow(line) if line.startswith("{") else None
    return line if fields is None else {key: str(value) for key, value in fields.items()}


def _flow(written: str) -> dict[str, Any] | None:
    """A mapping in YAML's flow style; None if it is not one."""
    document, problems = read_text(written, "")
    data = document.plain() if document is not None and not problems else None
    return data if isinstance(data, dict) else None
