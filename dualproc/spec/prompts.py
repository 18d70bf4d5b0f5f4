"""Prompts for the generator, and questions for the judge."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from dualproc.errors import Problem, SpecError
from dualproc.types import Prompt, Question
from dualproc.wording import nearest

from .crosschecks import entry_fields, shared_prompts, template_mistakes
from .document import KeyPath, Node
from .fields import SpecModel, Text, Word
from .mistakes import Mistake, raise_mistakes
from .refs import OneOrMore
from .template import fill_text, placeholders


def _entry_tag(value: Any) -> str | None:
    return "<text>" if isinstance(value, str) else "<fields>" if isinstance(value, Mapping) else None


Entry = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[dict[Word, Text], Tag("<fields>")],
    Discriminator(
        _entry_tag, custom_error_type="expected", custom_error_message="a string or a mapping of the template's fields"
    ),
]


def _check_entries(entries: tuple[str | dict[str, str], ...]) -> tuple[str | dict[str, str], ...]:
    mistakes, seen = [], set()
    for index, entry in enumerate(entries):
        key = frozenset(entry_fields(entry).items())
        if key in seen:
            mistakes.append(Mistake((index,), "this prompt is in the list twice"))
        if "prompt" in entry_fields(entry):
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
        raise_mistakes(mistakes or shared_prompts(self.template, *self._entries()), self)
        return self

    @property
    def fields(self) -> frozenset[str]:
        """The names of all fields of all entries."""
        return frozenset(field for entry in (*self.train, *self.eval) for field in entry_fields(entry))

    def train_prompts(self) -> list[Prompt]:
        """The training prompts; their fields include `prompt`, the text itself."""
        return [self._prompt(entry) for entry in self.train]

    def eval_prompts(self) -> list[Prompt]:
        """The held-out prompts; their fields include `prompt`, the text itself."""
        return [self._prompt(entry) for entry in self.eval]

    def placeholder_mistakes(
        self, template: str, path: KeyPath, *, also: Collection[str] = (), suggested: Collection[str] = ()
    ) -> list[Mistake]:
        """The mistakes of a template that these prompts fill; see `crosschecks.template_mistakes`."""
        return template_mistakes(template, path, *self._entries(), also=also, suggested=suggested)

    def _entries(self) -> tuple[dict[int, dict[str, str]], dict[int, dict[str, str]]]:
        """The fields of the entries for training and for evaluation, by index."""
        train, evaluation = (dict(enumerate(map(entry_fields, part))) for part in (self.train, self.eval))
        return train, evaluation

    def _prompt(self, entry: str | Mapping[str, str]) -> Prompt:
        fields = entry_fields(entry)
        text = fill_text(self.template, fields)
        return Prompt(text, {**fields, "prompt": text})


def variant_names(info: ValidationInfo) -> frozenset[str]:
    """The placeholder names that the spec's variants define; empty unless a spec is being loaded."""
    return frozenset((info.context or {}).get("variant_names", ()))


Wordings = OneOrMore[Text, Annotated[tuple[Text, ...], Field(min_length=1, max_length=20)]]
"""An answer, or several wordings of it; the first one names it."""
_BY_CANDIDATES: Any = None
"""The suffix of a question that gives none."""


class QuestionSpec(SpecModel):
    """A question about an image, its candidate answers, and which of them is wanted."""

    template: Text = Field(
        description="Text of the question. It may use the fields of the prompt, such as `{subject}`, and the whole "
        "prompt, `{prompt}`."
    )
    paraphrases: Annotated[tuple[Text, ...], Field(max_length=20)] = Field(
        default=(),
        description="Other wordings of `template`, at most 20. In training, each image is asked a random one of all "
        "wordings; evaluations ask `template`. Only for `question`.",
    )
    answer: Wordings = Field(
        default="Yes",
        description="The wanted answer, one of `candidates`. A list, such as [Yes, yes, YES], has further wordings of "
        "the same answer: their probabilities are added.",
    )
    candidates: tuple[Text, ...] = Field(
        default_factory=tuple,
        min_length=1,
        validate_default=True,
        description="The answers that are compared. Default: Yes and No; if `answer` is neither, only `answer`.",
    )
    suffix: str = Field(
        default_factory=lambda: _BY_CANDIDATES,
        max_length=2000,
        validate_default=True,
        description="Added after the question and a space; may be empty. Default: `Answer with Yes or No.`, with the "
        "names of other candidates if there are others; empty for a single candidate.",
    )

    @field_validator("paraphrases")
    @classmethod
    def _check_paraphrases(cls, paraphrases: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known, mistakes = {info.data.get("template")}, []
        for index, text in enumerate(paraphrases):
            if text in known:
                mistakes.append(Mistake((index,), "the question has this wording twice", "remove one"))
            known.add(text)
        raise_mistakes(mistakes, paraphrases)
        return paraphrases

    @field_validator("candidates", mode="before")
    @classmethod
    def _default_candidates(cls, candidates: Any, info: ValidationInfo) -> Any:
        if candidates is None or candidates == ():
            answer = _first(info.data.get("answer", "Yes"))
            return ("Yes", "No") if answer in ("Yes", "No") else (answer,)
        return candidates

    @field_validator("candidates")
    @classmethod
    def _check_candidates(cls, candidates: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        mistakes = []
        answer = info.data.get("answer")
        if answer is not None and _first(answer) not in candidates:
            mistakes.append(Mistake((), f"the wanted answer {_first(answer)!r} is not one of the candidates"))
        if (both := next((text for text in _others(answer) if text in candidates), None)) is not None:
            hint = "a wording of the wanted answer cannot be a candidate of its own"
            mistakes.append(Mistake((), f"{both!r} is both a candidate and a wording of the wanted answer", hint))
        if len(set(candidates)) < len(candidates):
            mistakes.append(Mistake((), "a candidate is in the list twice"))
        raise_mistakes(mistakes, candidates)
        return candidates

    @field_validator("suffix", mode="before")
    @classmethod
    def _default_suffix(cls, suffix: Any, info: ValidationInfo) -> Any:
        if suffix is not _BY_CANDIDATES:
            return suffix
        candidates = info.data.get("candidates", ("Yes", "No"))
        *others, last = ("Yes", "No") if set(candidates) == {"Yes", "No"} else candidates
        return f"Answer with {', '.join(others)} or {last}." if others else ""

    @property
    def wanted(self) -> int:
        """Index of the wanted answer among the candidates."""
        return self.candidates.index(_first(self.answer))

    @property
    def wordings(self) -> tuple[str, ...]:
        """The template and its paraphrases."""
        return (self.template, *self.paraphrases)

    def for_prompt(self, prompt: Prompt, *, wording: int = 0) -> Question:
        """The question about an image of `prompt`, in one of its `wordings`.

        Raises SpecError if the prompt lacks a field of it.
        """
        fields, template = {"prompt": prompt.text, **prompt.fields}, self.wordings[wording]
        missing = [name for name in placeholders(template) if name not in fields]
        if missing:
            hint = nearest(missing[0], list(fields))
            raise SpecError([Problem(f"unknown placeholder {{{missing[0]}}}", "question", hint=hint)])
        text = f"{fill_text(template, fields)} {self.suffix}".rstrip()
        return Question(text, self.candidates, self.wanted, _others(self.answer))


def questions_in(document: Node) -> Iterator[tuple[KeyPath, QuestionSpec]]:
    """The questions in a document that are valid in themselves, each with its path; without `preserve`."""
    given = document.child("question")
    places: list[KeyPath] = [("question",)]
    if given is not None and isinstance(given.value, list):
        places = [("question", index) for index in range(len(given.value))]
    for path in places if given is not None else ():
        with suppress(ValidationError):
            yield path, QuestionSpec.model_validate(document.nearest(path)[0].plain())


def _first(answer: str | Sequence[str]) -> str:
    return answer if isinstance(answer, str) else answer[0]


def _others(answer: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if answer is None or isinstance(answer, str) else tuple(answer[1:])
