"""Prompts for the generator, and questions for the judge."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from dualproc.errors import Problem, SpecError
from dualproc.types import Prompt, Question
from dualproc.wording import listed, nearest

from .document import KeyPath
from .fields import SpecModel, Text, Word
from .mistakes import MAX_PROBLEMS, Mistake, raise_mistakes
from .template import fill_text, placeholders


def _entry_tag(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<fields>" if isinstance(value, Mapping) else None


Entry = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[dict[Word, Text], Tag("<fields>")],
    Discriminator(
        _entry_tag, custom_error_type="expected", custom_error_message="a string or a mapping of the template's fields"
    ),
]


def _fields(entry: str | Mapping[str, str]) -> dict[str, str]:
    """The fields of an entry by name; a string is the field `subject`."""
    return {"subject": entry} if isinstance(entry, str) else dict(entry)


def _check_entries(entries: tuple[str | dict[str, str], ...]) -> tuple[str | dict[str, str], ...]:
    mistakes, seen = [], set()
    for index, entry in enumerate(entries):
        key = frozenset(_fields(entry).items())
        if key in seen:
            mistakes.append(Mistake((index,), "this prompt is in the list twice"))
        if "prompt" in _fields(entry):
            message = "the name `prompt` is reserved for the filled template"
            mistakes.append(Mistake((index, "prompt"), message, "rename the field"))
        seen.add(key)
    raise_mistakes(mistakes, entries)
    return entries


Entries = Annotated[tuple[Entry, ...], Field(min_length=1, max_length=10_000), AfterValidator(_check_entries)]


class Prompts(SpecModel):
    """The generator's prompts: a template, and the entries that fill it for training and for evaluation."""

    template: Text = Field(
        default="{subject}",
        description="Template of every prompt; each `{field}` is replaced with the entry's value of that name.",
    )
    train: Entries = Field(
        description="Training prompts, 1 to 10,000. A string fills `{subject}`; a mapping fills the fields that it "
        "names. Questions may use these fields, too."
    )
    eval: Entries = Field(
        description="Held-out prompts for the evaluation, written like `train`; never used in training."
    )

    @model_validator(mode="after")
    def _check_prompts(self, info: ValidationInfo) -> Self:
        mistakes = self.placeholder_mistakes(self.template, ("template",), suggested=variant_names(info))
        if not mistakes:
            training = {prompt.text for prompt in self.train_prompts()}
            hint = "evaluate on prompts that are not in `train`"
            mistakes = [
                Mistake(("eval", index), f"{prompt.text!r} is also a training prompt", hint)
                for index, prompt in enumerate(self.eval_prompts())
                if prompt.text in training
            ]
        raise_mistakes(mistakes, self)
        return self

    @property
    def fields(self) -> frozenset[str]:
        """The names of all fields of all entries."""
        return frozenset(field for entry in (*self.train, *self.eval) for field in _fields(entry))

    def train_prompts(self) -> list[Prompt]:
        """The training prompts; their fields include `prompt`, the text itself."""
        return [self._prompt(entry) for entry in self.train]

    def eval_prompts(self) -> list[Prompt]:
        """The held-out prompts; their fields include `prompt`, the text itself."""
        return [self._prompt(entry) for entry in self.eval]

    def placeholder_mistakes(
        self, template: str, path: KeyPath, *, also: Collection[str] = (), suggested: Collection[str] = ()
    ) -> list[Mistake]:
        """One mistake at `path` for each placeholder of a template that not every entry can fill.

        `also` are additional fields that every entry has. `suggested` are names that something else fills later: they
        are not mistakes, and they are suggested as corrections.
        """
        entries = {f"train.{i}": _fields(entry) for i, entry in enumerate(self.train)}
        entries |= {f"eval.{i}": _fields(entry) for i, entry in enumerate(self.eval)}
        known = self.fields.union(also)
        mistakes: list[Mistake] = []
        for name in placeholders(template):
            if len(mistakes) > MAX_PROBLEMS:
                break
            lacking = [place for place, fields in entries.items() if name not in fields and name not in also]
            if name in known and lacking:
                hint = f"missing in {listed(lacking)}"
                mistakes.append(Mistake(path, f"not every prompt has the field `{name}`", hint))
            elif lacking and name not in suggested:
                hint = nearest(name, sorted({*known, *suggested}))
                mistakes.append(Mistake(path, f"unknown placeholder {{{name}}}", hint))
        return mistakes

    def _prompt(self, entry: str | Mapping[str, str]) -> Prompt:
        fields = _fields(entry)
        text = fill_text(self.template, fields)
        return Prompt(text, {**fields, "prompt": text})


def variant_names(info: ValidationInfo) -> frozenset[str]:
    """The placeholder names that the spec's variants define; empty unless a spec is being loaded."""
    return frozenset((info.context or {}).get("variant_names", ()))


class QuestionSpec(SpecModel):
    """A question about an image, its candidate answers, and which of them is wanted."""

    template: Text = Field(
        description="Text of the question. It may use the fields of the prompt, such as `{subject}`, and the whole "
        "prompt, `{prompt}`."
    )
    suffix: str = Field(
        default="Answer with Yes or No.",
        max_length=2000,
        description="Added after the question and a space; may be empty.",
    )
    answer: Text = Field(default="Yes", description="The wanted answer; one of `candidates`.")
    candidates: tuple[Text, ...] = Field(
        default_factory=tuple,
        min_length=1,
        validate_default=True,
        description="The answers that are compared. Default: Yes and No; if `answer` is neither, only `answer`.",
    )

    @field_validator("candidates", mode="before")
    @classmethod
    def _default_candidates(cls, candidates: Any, info: ValidationInfo) -> Any:
        if candidates is None or candidates == ():
            answer = info.data.get("answer", "Yes")
            return ("Yes", "No") if answer in ("Yes", "No") else (answer,)
        return candidates

    @field_validator("candidates")
    @classmethod
    def _check_candidates(cls, candidates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        mistakes = []
        answer = info.data.get("answer")
        if answer is not None and answer not in candidates:
            mistakes.append(Mistake((), f"the wanted answer {answer!r} is not one of the candidates"))
        if len(set(candidates)) < len(candidates):
            mistakes.append(Mistake((), "a candidate is in the list twice"))
        raise_mistakes(mistakes, candidates)
        return candidates

    def for_prompt(self, prompt: Prompt) -> Question:
        """The question about an image of `prompt`. Raises SpecError if the prompt lacks a field of the template."""
        fields = {"prompt": prompt.text, **prompt.fields}
        missing = [name for name in placeholders(self.template) if name not in fields]
        if missing:
            hint = nearest(missing[0], list(fields))
            raise SpecError([Problem(f"unknown placeholder {{{missing[0]}}}", "question", hint=hint)])
        text = f"{fill_text(self.template, fields)} {self.suffix}".rstrip()
        return Question(text, self.candidates, self.candidates.index(self.answer))
