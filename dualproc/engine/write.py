"""Let a language model write questions and prompts: by the judge itself, or by an OpenAI-compatible endpoint.

What comes back is checked like anything typed. It is a draft: ask the questions about base images first (`dp audit`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import ValidationError

from dualproc import resolve
from dualproc.errors import DualprocError
from dualproc.kit.files import read
from dualproc.protocols import Judge
from dualproc.spec import PluginRef, QuestionSpec
from dualproc.spec.template import placeholders
from dualproc.wording import cause

if TYPE_CHECKING:
    from openai import OpenAI

T = TypeVar("T")
Ask = Callable[[str], str]
"""Answers an instruction with text. Raises DualprocError if that is not possible."""
KEY, URL = "OPENAI_API_KEY", "OPENAI_BASE_URL"
"""The environment variables with the key and the address of an endpoint."""
MAX_TOKENS = 1000
"""Length of an answer."""
MAX_COUNT = 50
"""Questions or prompts that are asked for at once."""
TIMEOUT = 120.0
"""Seconds to wait for an endpoint."""
MAX_INSTRUCTION = 100_000
"""Characters of an instruction file."""


@dataclass(frozen=True)
class Writer:
    """A language model that writes."""

    name: str
    ask: Ask


@dataclass(frozen=True)
class Written:
    """What a model has written, and what of it was refused, with the reason."""

    by: str
    questions: tuple[QuestionSpec, ...] = ()
    prompts: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def write_questions(prompt: str, writer: Writer, *, count: int = 4, instruction: str | None = None) -> Written:
    """Questions to a judge about images of a prompt (or a template such as `a cartoon of {subject}`).

    `instruction` replaces the shipped text, with `{prompt}` and `{count}` for the values. Raises DualprocError if the
    writer fails, or its answer has no question that can be used.
    """
    text = _filled("questions", instruction, prompt=prompt, count=_count(count))
    questions: list[QuestionSpec] = []
    refused: list[str] = []
    known = {*placeholders(prompt), "prompt"}
    for item in _items(writer.ask(text), writer.name):
        given = item if isinstance(item, dict) else {"question": item}
        template, answer = given.get("question"), given.get("answer", "Yes")
        try:
            question = QuestionSpec.model_validate({"template": template, "answer": answer})
            if unknown := [name for name in placeholders(question.template) if name not in known]:
                raise ValueError(f"the prompt has no field {{{unknown[0]}}}")
            if question.template in [one.template for one in questions]:
                raise ValueError("it is in the list twice")
        except (ValidationError, ValueError) as error:
            why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            refused.append(f"{str(template)[:200]!r}: {why}")
        else:
            questions.append(question)
    return Written(writer.name, questions=_usable("question", questions, refused, writer), refused=tuple(refused))


def write_prompts(
    subjects: Sequence[str],
    writer: Writer,
    *,
    template: str = "{subject}",
    count: int = 8,
    taken: Sequence[str] = (),
    instruction: str | None = None,
) -> Written:
    """Further subjects of a list of training prompts; those in the list, or `taken` elsewhere, are refused.

    `instruction` replaces the shipped text, with `{prompts}`, `{prompt}` (the template) and `{count}` for the values.
    Raises DualprocError if the writer fails, or its answer has no prompt that can be used.
    """
    listed = "\n".join(f"- {one}" for one in subjects)
    text = _filled("prompts", instruction, prompts=listed, prompt=template, count=_count(count))
    new: list[str] = []
    refused: list[str] = []
    for item in _items(writer.ask(text), writer.name):
        subject = item.strip() if isinstance(item, str) else ""
        if not subject or len(subject) > 300 or not subject.isprintable() or placeholders(subject):
            refused.append(f"{str(item)[:200]!r}: expected a string without braces and line breaks")
        elif subject in (*subjects, *taken, *new):
            refused.append(f"{subject!r}: it is in the prompts already")
        else:
            new.append(subject)
    return Written(writer.name, prompts=_usable("prompt", new, refused, writer), refused=tuple(refused))


def _usable(what: str, found: Sequence[T], refused: Sequence[str], writer: Writer) -> tuple[T, ...]:
    """What can be used, at most `MAX_COUNT`. Raises DualprocError with what was refused if it is nothing."""
    if not found:
        raise DualprocError(f"{writer.name} wrote no {what} that can be used", hint="\n  ".join(refused[:5]) or None)
    return tuple(found[:MAX_COUNT])


def endpoint(model: str, *, url: str | None = None) -> Writer:
    """A model of an OpenAI-compatible endpoint; the key comes from the environment (`OPENAI_API_KEY`).

    `url` is its address, such as `http://127.0.0.1:8000/v1`; by default that of `OPENAI_BASE_URL`, or OpenAI's. Raises
    DualprocError if the client is not installed, or there is no key for OpenAI's own endpoint.
    """
    if find_spec("openai") is None:
        raise DualprocError("no client of an endpoint is installed", hint="pip install 'dualproc[write]'")
    address = url or os.environ.get(URL) or None
    key = os.environ.get(KEY) or ("none" if address else None)  # a server of one's own machine often needs no key
    if key is None:
        raise DualprocError(f"{KEY} is not set", hint="set it, or give the address of an endpoint that needs no key")
    from openai import OpenAI

    client: OpenAI = OpenAI(api_key=key, base_url=address, timeout=TIMEOUT, max_retries=1)
    where = f"{model} at {client.base_url.host}"

    def ask(text: str) -> str:
        try:
            reply = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], max_completion_tokens=MAX_TOKENS
            )
            return reply.choices[0].message.content or ""
        except Exception as error:  # the client raises many kinds: no connection, a wrong key, another form of answer
            hint = f"check the model's name, the address, and {KEY}"
            raise DualprocError(f"{where} did not answer: {cause(error)}", hint=hint) from error

    return Writer(where, ask)


def judge_as_writer(ref: PluginRef, judge: Judge | None = None) -> Writer:
    """A judge of a spec, which answers in words about a grey image; it is loaded when first asked, unless it is given.

    Raises DualprocError if it cannot write, see `cannot_write`.
    """
    if reason := cannot_write(ref):
        raise DualprocError(reason, hint="choose a pretrained judge, or a model of an endpoint")

    def ask(text: str) -> str:
        import torch

        loaded: Judge = judge if judge is not None else resolve.build("judges", ref)
        grey = torch.full((1, 3, 224, 224), 0.5)
        return loaded.generate(grey, [text], max_new_tokens=MAX_TOKENS)[0]

    return Writer(str(ref.params.get("model") or ref.type), ask)


def cannot_write(ref: PluginRef) -> str:
    """Why a judge cannot write questions; empty if it can. Raises PluginError if there is no such judge."""
    if resolve.is_shipped("judges", ref):
        return f"the shipped judge `{ref.type}` can only answer Yes or No; it cannot write"
    return ""


def shipped_instruction(kind: Literal["questions", "prompts"]) -> str:
    """The shipped instruction text for questions or prompts."""
    return resources.files("dualproc.engine").joinpath("instructions", f"{kind}.txt").read_text(encoding="utf-8")


def read_instruction(file: Path) -> str:
    """An instruction text of the user's own. Raises DualprocError if it cannot be read, is empty or too long."""
    try:
        text = read(file).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DualprocError(f"{file} cannot be read: {cause(error)}") from error
    if not text.strip() or len(text) > MAX_INSTRUCTION:
        raise DualprocError(f"{file}: expected a text of 1 to {MAX_INSTRUCTION:,} characters")
    return text


def _filled(kind: Literal["questions", "prompts"], instruction: str | None, **values: object) -> str:
    text = shipped_instruction(kind) if instruction is None else instruction
    for name, value in values.items():  # not str.format: the text has braces of its own
        text = text.replace(f"{{{name}}}", str(value))
    return text


def _count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise DualprocError(f"expected 1 to {MAX_COUNT} at once, got {count}")
    return count


def _items(answer: str, name: str) -> list[Any]:
    """The JSON list in an answer, which may have text or a code fence around it."""
    for start in (index for index, character in enumerate(answer) if character == "["):
        try:
            found, _ = json.JSONDecoder().raw_decode(answer[start:])
        except (ValueError, RecursionError):
            continue
        if isinstance(found, list):
            return found
    raise DualprocError(f"{name} wrote no JSON list", hint=f"it wrote: {answer.strip()[:300] or 'nothing'}")
