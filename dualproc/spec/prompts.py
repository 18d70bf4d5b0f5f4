"""Prompts and questions: what the generator is told and what the judge is asked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from dualproc.errors import Problem, SpecError
from dualproc.types import Prompt, Question
from dualproc.wording import nearest

from .document import KeyPath
from .fields import SpecModel, Text, Word
from .mistakes import MAX_PROBLEMS, Mistake, refuse
from .template import fill_text, placeholders


def _entry_tag(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<fields>" if isinstance(value, Mapping) else None


Entry = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[dict[Word, Text], Tag("<fields>")],
    Discriminator(
        _entry_tag, custom_error_type="expected", custom_error_message="a text or a mapping of the template's fields"
    ),
]


def _fields(entry: str | Mapping[str, str]) -> dict[str, str]:
    return {"subject": entry} if isinstance(entry, str) else dict(entry)


def _no_repetition(entries: tuple[str | dict[str, str], ...]) -> tuple[str | dict[str, str], ...]:
    mistakes, seen = [], set()
    for index, entry in enumerate(entries):
        key = frozenset(_fields(entry).items())
        if key in seen:
            mistakes.append(Mistake((index,), "this prompt stands in the list twice"))
        if "prompt" in _fields(entry):
            mistakes.append(
                Mistake((index, "prompt"), "`prompt` is the filled template's own name", "rename the field")
            )
        seen.add(key)
    refuse(mistakes, entries)
    return entries


Entries = Annotated[tuple[Entry, ...], Field(min_length=1, max_length=10_000), AfterValidator(_no_repetition)]


class Prompts(SpecModel):
    """What the generator is told: a template, and what fills it in training and in evaluation."""

    template: Text = Field(
        default="{subject}", description="The prompt; each `{field}` is filled from the entries of `train` and `eval`."
    )
    train: Entries = Field(
        description="What is trained on. A text fills `{subject}`; a mapping fills the fields that it names, which "
        "questions may use too."
    )
    eval: Entries = Field(description="What is measured on, written like `train`; never trained on.")

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        mistakes = self.unknown(self.template, ("template",), suggested=variant_names(info))
        if not mistakes:
            trained = {prompt.text for prompt in self.train_prompts()}
            mistakes = [
                Mistake(
                    ("eval", index), f"{prompt.text!r} is a training prompt too", "evaluate on prompts never trained on"
                )
                for index, prompt in enumerate(self.eval_prompts())
                if prompt.text in trained
            ]
        refuse(mistakes, self)
        return self

    @property
    def fields(self) -> frozenset[str]:
        """The names of all fields of all entries."""
        return frozenset(field for entry in (*self.train, *self.eval) for field in _fields(entry))

    def train_prompts(self) -> list[Prompt]:
        """The prompts to train on; their fields include `prompt`, the text itself."""
        return [self._prompt(entry) for entry in self.train]

    def eval_prompts(self) -> list[Prompt]:
        """The prompts to measure on; their fields include `prompt`, the text itself."""
        return [self._prompt(entry) for entry in self.eval]

    def unknown(
        self, template: str, path: KeyPath, *, also: Collection[str] = (), suggested: Collection[str] = ()
    ) -> list[Mistake]:
        """One mistake, placed at `path`, for each placeholder of a template that not every entry can fill.

        `also` are fields that every entry has besides its own; `suggested` are names that other text may use: they
        are passed over here and offered as corrections.
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
                where = ", ".join(lacking[:3]) + (" and others" if len(lacking) > 3 else "")
                mistakes.append(Mistake(path, f"not every prompt has the field `{name}`", f"missing in {where}"))
            elif lacking and name not in suggested:
                hint = nearest(name, sorted({*known, *suggested}))
                mistakes.append(Mistake(path, f"unknown placeholder {{{name}}}", hint))
        return mistakes

    def _prompt(self, entry: str | Mapping[str, str]) -> Prompt:
        fields = _fields(entry)
        text = fill_text(self.template, fields)
        return Prompt(text, {**fields, "prompt": text})


def variant_names(info: ValidationInfo) -> frozenset[str]:
    """The names that the spec's variants define, where a spec is being loaded."""
    return frozenset((info.context or {}).get("variant_names", ()))


class QuestionSpec(SpecModel):
    """A question about an image, and the answers that are compared."""

    template: Text = Field(description="The question; it may use the prompt's fields and `{prompt}`.")
    suffix: str = Field(
        default="Answer with Yes or No.", max_length=2000, description="Put after the question and a space."
    )
    answer: Text = Field(default="Yes", description="The wanted answer.")
    candidates: tuple[Text, ...] = Field(
        default_factory=tuple,
        min_length=1,
        validate_default=True,
        description="All answers that are compared; by default Yes and No, or only the wanted one if it is neither.",
    )

    @field_validator("candidates", mode="before")
    @classmethod
    def _default(cls, candidates: Any, info: ValidationInfo) -> Any:
        if candidates is None or candidates == ():
            answer = info.data.get("answer", "Yes")
            return ("Yes", "No") if answer in ("Yes", "No") else (answer,)
        return candidates

    @field_validator("candidates")
    @classmethod
    def _comparable(cls, candidates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        mistakes = []
        answer = info.data.get("answer")
        if answer is not None and answer not in candidates:
            mistakes.append(Mistake((), f"the wanted answer {answer!r} is not among the candidates"))
        if len(set(candidates)) < len(candidates):
            mistakes.append(Mistake((), "a candidate stands here twice"))
        refuse(mistakes, candidates)
        return candidates

    def for_prompt(self, prompt: Prompt) -> Question:
        """The question about an image of `prompt`.

        Raises:
            SpecError: the template uses a field that the prompt does not have.
        """
        fields = {"prompt": prompt.text, **prompt.fields}
        missing = [name for name in placeholders(self.template) if name not in fields]
        if missing:
            problem = Problem(
                f"unknown placeholder {{{missing[0]}}}", "question", hint=nearest(missing[0], list(fields))
            )
            raise SpecError([problem])
        text = f"{fill_text(self.template, fields)} {self.suffix}".rstrip()
        return Question(text, self.candidates, self.candidates.index(self.answer))
