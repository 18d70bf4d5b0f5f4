"""`dp ask`: ask a judge about images, without a generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.errors import DualprocError, SpecError
from dualproc.kit.image_files import batches, image_files, is_image_name
from dualproc.types import Question
from dualproc.wording import number

from .arguments import AsJson, At, Fields, SpecFile, Variant, field_options, named_values, one_place
from .output import print_table, print_warning, say, stdout_for_the_result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dualproc.engine.ask import Reply
    from dualproc.spec import PluginRef, TaskSpec

FORMS = """\
dp ask cat.png "Is this a drawing of a cat?"
  dp ask cat.png --spec horizon --variant high --field subject="an owl\""""
DEFAULT_JUDGE = "tiny"
BATCH = 8
"""Images in a batch, at most; they have the same size."""


def ask(
    words: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE|QUESTION", help="Images and folders of images, then the question in quotes."),
    ],
    judge: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An installed judge plugin.", show_default="tiny, or the spec's judge"),
    ] = None,
    candidates: Annotated[str, typer.Option(metavar="A,B,...", help="Answers whose probability is printed.")] = (
        "Yes,No"
    ),
    suffix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='Text to add after the question; "" adds nothing.',
            show_default="'Answer with A or B.', from the candidates",
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Maximum length of the answer, in tokens.",
            show_default="length of the longest candidate",
        ),
    ] = None,
    spec: SpecFile = None,
    variant: Variant = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a parameter of the judge or, with --spec, a value of the spec. Repeatable.",
        ),
    ] = None,
    fields: Fields = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Ask a judge a question about images.

    Prints the judge's answer in words, and the probability of each candidate answer.

    With --spec, the judge and the questions come from the spec, and its visual prompt is laid over the images as in
    training, but without jitter. A question on the command line replaces the questions of the spec.

    \b
    dp ask cat.png "Is this a drawing of a cat?"
    dp ask images/ "Is this a cat or a dog?" --candidates cat,dog --json
    dp ask cat.png "Is the sky blue?" --judge transformers --set model=path/to/a/judge
    dp ask cat.png "What is in the image?" --suffix "" --tokens 30 --judge qwen2.5-vl
    dp ask images/ --spec horizon --variant high --field subject="a cat"
    """
    places, text = _split(words)
    if text is None and spec is None:
        raise DualprocError("the question is missing: write it last, in quotes", hint=FORMS)
    if spec is None and (variant or fields or at):
        raise DualprocError("--variant, --field and --at need --spec", hint=FORMS)
    questions = [_question(text, candidates, suffix)] if text is not None else []
    with stdout_for_the_result(as_json):
        if spec is None:
            asked: PluginRef | TaskSpec = _judge(judge or DEFAULT_JUDGE, overrides or ())
        else:
            from dualproc.resolve import load_spec

            other = [f"judge={{type: {json.dumps(judge)}}}"] if judge else []
            asked = load_spec(spec, variant=variant, overrides=[*other, *(overrides or ())]).at(one_place(at or ()))
            questions = questions or _questions(asked, named_values(fields or ()))
        files = image_files(places)
        replies = _replies(asked, files, questions, tokens)
    _warn_about_other_answers(questions, replies)
    data = _as_data(files, questions, replies)
    if as_json:
        say(json.dumps(data, indent=1, ensure_ascii=False))
        return
    for index, question in enumerate(questions):
        say(("\n" if index else "") + question.text)
        replied = data[index :: len(questions)]
        rows = [(one["image"], one["answer"], *map(number, one["probabilities"].values())) for one in replied]
        print_table(("image", "answer", *(f"P({answer})" for answer in question.candidates)), rows)


def _split(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The images, and the question if the last word is one.

    A question contains a space or ends with `?`, and is neither an existing file nor the name of an image file.
    """
    last = words[-1].strip()
    if not (" " in last or last.endswith("?")) or Path(words[-1]).exists() or is_image_name(last):
        return list(words), None
    if len(words) == 1:
        raise DualprocError("the images are missing: write them first, then the question", hint=FORMS)
    return list(words[:-1]), last


def _question(text: str, candidates: str, suffix: str | None) -> Question:
    answers = tuple(answer.strip() for answer in candidates.split(","))
    if not all(answers) or len(set(answers)) < len(answers):
        message = f"expected different answers, separated by commas, got `--candidates {candidates}`"
        raise DualprocError(message, hint="for example --candidates Yes,No")
    ending = f"Answer with {' or '.join(answers)}." if suffix is None else suffix
    return Question(f"{text} {ending}".rstrip(), answers)


def _judge(name: str, overrides: Sequence[str]) -> PluginRef:
    """A judge by name, with the parameters from `--set`."""
    from dualproc.spec import PluginRef
    from dualproc.spec.document import from_data
    from dualproc.spec.merge import override

    document, problems = override(from_data({"type": name}), overrides)
    if problems:
        raise SpecError(problems)
    return PluginRef.model_validate(document.plain())


def _questions(spec: TaskSpec, fields: dict[str, str]) -> list[Question]:
    """The spec's questions, without those that use a field that is not in `fields`; warns about each of these.

    Raises DualprocError if no question is left.
    """
    from dualproc.engine.ask import missing_fields, prompt_for

    prompt = prompt_for(spec, fields)
    unknown = {question.template: missing_fields(question, prompt) for question in spec.questions}
    asked = [question.for_prompt(prompt) for question in spec.questions if not unknown[question.template]]
    for template, names in unknown.items():
        skipped, hint = f"not asked: {template}", f"add {field_options(names)}"
        if not asked:
            raise DualprocError(skipped, hint=f"{hint}, or write a question on the command line")
        if names:
            print_warning(f"{skipped} ({hint})")
    return asked


def _replies(
    asked: PluginRef | TaskSpec, files: Sequence[Path], questions: Sequence[Question], tokens: int | None
) -> list[list[Reply]]:
    """Load the judge, with the visual prompt if `asked` is a spec, and ask it."""
    from .progress import quiet

    quiet()
    from dualproc.engine.ask import ask as ask_judge
    from dualproc.engine.ensemble import build_judge
    from dualproc.engine.evaluators import Evaluators
    from dualproc.spec import PluginRef

    images = batches(files, BATCH)
    if isinstance(asked, PluginRef):
        return ask_judge(build_judge([(1.0, asked)]), images, questions, tokens=tokens)
    evaluators = Evaluators(asked.model_copy(update={"referee": None, "scorers": ()}))  # not needed: do not load
    return ask_judge(evaluators.judge, map(evaluators.judge_view, images), questions, tokens=tokens)


def _warn_about_other_answers(questions: Sequence[Question], replies: Sequence[Sequence[Reply]]) -> None:
    """Warn about questions that the judge answers with other words: then the candidates' probabilities mean little."""
    from dualproc.engine.ask import SAYABLE

    for index, question in enumerate(questions):
        highest = max(sum(row[index].probabilities) for row in replies)
        if highest < SAYABLE:
            answers = ", ".join(dict.fromkeys(row[index].words for row in replies[:3]))
            print_warning(
                f"the judge does not answer {question.text!r} with {' or '.join(question.candidates)} (P = "
                f"{highest:.1g} for all of them together); it answers: {answers}"
            )


def _as_data(
    files: Sequence[Path], questions: Sequence[Question], replies: Sequence[Sequence[Reply]]
) -> list[dict[str, Any]]:
    """One mapping per image and question."""
    return [
        {
            "image": str(file),
            "question": question.text,
            "answer": reply.words,
            "probabilities": dict(zip(question.candidates, reply.probabilities, strict=True)),
        }
        for file, row in zip(files, replies, strict=True)
        for question, reply in zip(questions, row, strict=True)
    ]
