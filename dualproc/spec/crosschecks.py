"""Mistakes between the keys of a spec, found even if other keys have mistakes.

pydantic skips a check of several keys if one of them is not valid, so the models alone would hide mistakes behind
others. These checks read plain data, and skip only what they cannot read. The models use the same functions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from dualproc.errors import Problem
from dualproc.wording import listed, nearest

from .document import KeyPath, Node, problem_at
from .mistakes import MAX_PROBLEMS, Mistake
from .template import defined_names, fill_text, find_placeholders, placeholders, single_braces, slider_names

Fields = Mapping[str, Any]
"""The fields of a prompt by name."""

_PLAIN_SECTIONS = ("description", "reward", "visual_prompt", "scorers", "anchor")
"""The sections whose placeholders only a variant can fill."""


def cross_problems(document: Node) -> list[Problem]:
    """The problems between the keys of a document in which pydantic has found others."""
    data, names = document.plain(), defined_names(document) | slider_names(document)
    if not isinstance(data, Mapping):
        return []
    prompts = data.get("prompts")
    prompts = prompts if isinstance(prompts, Mapping) else {}
    train, evaluation = (_entries(prompts.get(key)) for key in ("train", "eval"))
    template = prompts.get("template", "{subject}")
    mistakes: list[Mistake] = []
    if isinstance(template, str) and train:
        mistakes = template_mistakes(template, ("prompts", "template"), train, evaluation, suggested=names)
        mistakes = mistakes or _below("prompts", shared_prompts(template, train, evaluation))
    for section in ("question", "preserve"):
        given = data.get(section)
        for path, question in _listed(given, (section,)):
            others = {key: value for key, value in question.items() if key not in ("template", "paraphrases")}
            mistakes += unfilled(others, names, path)
            for key, text in wordings(question) if train else ():
                place = (*path, *key)
                mistakes += template_mistakes(text, place, train, evaluation, also=("prompt",), suggested=names)
    for section in _PLAIN_SECTIONS:
        mistakes += unfilled(data.get(section), names, (section,))
    return [problem_at(document, path, message, hint=hint) for path, message, hint in mistakes[: MAX_PROBLEMS + 1]]


def entry_fields(entry: str | Fields) -> dict[str, Any]:
    """The fields of an entry by name; a string is the field `subject`."""
    return {"subject": entry} if isinstance(entry, str) else dict(entry)


def wordings(question: Fields) -> Iterator[tuple[KeyPath, str]]:
    """The texts of a question in plain data that the fields of a prompt fill, each with its place in the question."""
    others = question.get("paraphrases")
    given: dict[KeyPath, Any] = {("template",): question.get("template")}
    given |= {("paraphrases", i): one for i, one in enumerate(others if isinstance(others, (list, tuple)) else ())}
    yield from ((place, text) for place, text in given.items() if isinstance(text, str))


def template_mistakes(
    template: str,
    path: KeyPath,
    train: Mapping[int, Fields],
    evaluation: Mapping[int, Fields],
    *,
    also: Collection[str] = (),
    suggested: Collection[str] = (),
) -> list[Mistake]:
    """One mistake at `path` for each placeholder of a template with one brace, or that not every entry can fill.

    `train` and `evaluation` are the fields of the entries by index. `also` are additional fields that every entry has.
    `suggested` are names that something else fills later: they are not mistakes, and they are suggested as corrections.
    """
    entries = {f"train.{index}": fields for index, fields in train.items()}
    entries |= {f"eval.{index}": fields for index, fields in evaluation.items()}
    known = {field for fields in entries.values() for field in fields}.union(also)
    mistakes = [_one_brace(path, written) for written in single_braces(template, {*known, *suggested})]
    for name in placeholders(template):
        if len(mistakes) > MAX_PROBLEMS:
            break
        lacking = [place for place, fields in entries.items() if name not in fields and name not in also]
        if name in known and lacking:
            mistakes.append(Mistake(path, f"not every prompt has the field `{name}`", f"missing in {listed(lacking)}"))
        elif lacking and name not in suggested:
            hint = nearest(name, sorted({*known, *suggested}))
            mistakes.append(Mistake(path, f"unknown placeholder {{{name}}}", hint))
    return mistakes


def shared_prompts(template: str, train: Mapping[int, Fields], evaluation: Mapping[int, Fields]) -> list[Mistake]:
    """One mistake for each held-out entry whose prompt is also a training prompt; one if all prompts are the same."""
    if not placeholders(template):
        field = next((name for fields in train.values() for name in fields), "subject")
        message, hint = "the template has no placeholder, so all prompts are the same", f"write `{{{field}}}` in it"
        return [Mistake(("template",), message, hint)]
    training = {fill_text(template, fields) for fields in train.values()}
    hint = "evaluate on prompts that are not in `train`"
    return [
        Mistake(("eval", index), f"{text!r} is also a training prompt", hint)
        for index, fields in evaluation.items()
        if (text := fill_text(template, fields)) in training
    ]


def unfilled(data: Any, names: Collection[str], path: KeyPath = ()) -> list[Mistake]:
    """One mistake for each placeholder in plain data that no variant defines, and for each with only one brace."""
    # A name that only this variant does not set is reported at the variant itself.
    unknown = ((place, name) for place, name in find_placeholders(data, path) if name not in names)
    mistakes = [
        Mistake(place, f"unknown placeholder {{{name}}}", nearest(name, sorted(names)))
        for place, name in islice(unknown, MAX_PROBLEMS + 1)
    ]
    single = ((place, written) for place, text in _texts(data, path) for written in single_braces(text, names))
    return mistakes + [_one_brace(place, written) for place, written in islice(single, MAX_PROBLEMS + 1)]


def _one_brace(path: KeyPath, written: str) -> Mistake:
    return Mistake(path, f"the placeholder {written} has only one brace", f"write {{{written.strip('{}')}}}")


def _below(section: str, mistakes: Sequence[Mistake]) -> list[Mistake]:
    return [mistake._replace(path=(section, *mistake.path)) for mistake in mistakes]


def _entries(given: Any) -> dict[int, dict[str, Any]]:
    """The fields of those items of a list that can be entries, by index."""
    items = given if isinstance(given, list) else []
    entries = {index: entry_fields(item) for index, item in enumerate(items) if isinstance(item, (str, Mapping))}
    return {index: fields for index, fields in entries.items() if "prompt" not in fields}  # a reserved name: misnamed


def _listed(given: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Fields]]:
    """The mappings in a value that is one mapping, or a list of them."""
    pairs = [((*path, index), item) for index, item in enumerate(given)] if isinstance(given, list) else [(path, given)]
    yield from ((place, item) for place, item in pairs if isinstance(item, Mapping))


def _texts(data: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Every text in plain data, with its path."""
    if isinstance(data, str):
        yield path, data
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, (list, tuple)) else ()
    for key, value in items:
        yield from _texts(value, (*path, key))
