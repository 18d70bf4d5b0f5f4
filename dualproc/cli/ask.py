"""`dp ask`: what a judge says of images, the judge alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.errors import DualprocError, SpecError

from .arguments import AsJson, Fields, SpecFile, Variant, field_options, named_values
from .output import print_table, print_warning

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dualproc.engine.ask import Reply
    from dualproc.spec import PluginRef, TaskSpec
    from dualproc.types import Question

FORMS = """\
dp ask cat.png "Is this a drawing of a cat?"
  dp ask cat.png --spec specs/horizon.yaml --variant high --field subject="an owl\""""
DEFAULT_JUDGE = "tiny"
SAYABLE = 0.01
"""Candidates that are together less probable than this are not what the judge answers."""
BATCH = 8
"""Images of one size that are asked about in one go."""


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command()(ask)


def ask(
    words: Annotated[
        list[str], typer.Argument(metavar="IMAGE|QUESTION", help="Images and folders, then the question.")
    ],
    judge: Annotated[str | None, typer.Option(metavar="NAME", help="An installed judge; tiny if not given.")] = None,
    candidates: Annotated[str, typer.Option(metavar="A,B,...", help="The answers whose probability is told.")] = (
        "Yes,No"
    ),
    suffix: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Put after the question; 'Answer with Yes or No.' if not given.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Length of its words; that of the longest candidate if not given."),
    ] = None,
    spec: SpecFile = None,
    variant: Variant = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter of the judge; with --spec, a value of it."),
    ] = None,
    fields: Fields = None,
    as_json: AsJson = False,
) -> None:
    """Ask a judge about images.

    It tells the answer in words, and how probable each candidate answer is.

    With --spec, the judge and the questions are the spec's, and its visual prompt is laid over the images as in
    training (without jitter). A question of your own is then asked instead of the spec's.

    \b
    dp ask cat.png "Is this a drawing of a cat?"
    dp ask images/ "Is this a cat or a dog?" --candidates cat,dog --json
    dp ask cat.png "Is the sky blue?" --judge transformers --set model=path/to/a/judge
    dp ask cat.png "What is in the image?" --suffix "" --tokens 30 --judge qwen2.5-vl
    dp ask images/ --spec specs/horizon.yaml --variant high --field subject="a cat"
    """
    from dualproc.kit.image_files import image_files

    places, text = _split(words)
    if text is None and spec is None:
        raise DualprocError("no question is asked: it comes last, in quotes", hint=FORMS)
    if spec is None and (variant or fields):
        raise DualprocError("--variant and --field go with --spec", hint=FORMS)
    questions = [_question(text, candidates, suffix)] if text is not None else []
    if spec is None:
        asked: PluginRef | TaskSpec = _judge(judge or DEFAULT_JUDGE, overrides or ())
    else:
        asked = _spec(spec, variant, judge, overrides or ())
        questions = questions or _questions(asked, named_values(fields or ()))
    files = image_files(places)
    replies = _replies(asked, files, questions, tokens)
    _warn_of_other_answers(questions, replies)
    if as_json:
        typer.echo(json.dumps(_plain(files, questions, replies), indent=1, ensure_ascii=False))
    else:
        _print(files, questions, replies)


def _split(words: Sequence[str]) -> tuple[list[str], str | None]:
    """Images, and the question if the last word is one: with a space or a `?`, and neither a file nor named so."""
    from dualproc.kit.image_files import is_image_name

    last = words[-1].strip()
    if not (" " in last or last.endswith("?")) or Path(words[-1]).exists() or is_image_name(last):
        return list(words), None
    if len(words) == 1:
        raise DualprocError("no image is given: images come first, then the question", hint=FORMS)
    return list(words[:-1]), last


def _question(text: str, candidates: str, suffix: str | None) -> Question:
    from dualproc.types import Question

    answers = tuple(answer.strip() for answer in candidates.split(","))
    if not all(answers) or len(set(answers)) < len(answers):
        raise DualprocError(f"`--candidates {candidates}` is no list of different answers", hint="write Yes,No")
    ending = f"Answer with {' or '.join(answers)}." if suffix is None else suffix
    return Question(f"{text} {ending}".rstrip(), answers)


def _judge(name: str, overrides: Sequence[str]) -> PluginRef:
    """A judge by name, with the parameters that `--set` gives it."""
    from dualproc.spec import PluginRef
    from dualproc.spec.document import from_data
    from dualproc.spec.merge import override

    document, problems = override(from_data({"type": name}), overrides)
    if problems:
        raise SpecError(problems)
    return PluginRef.model_validate(document.plain())


def _spec(file: str, variant: str | None, judge: str | None, overrides: Sequence[str]) -> TaskSpec:
    """The spec, with another judge if one is named."""
    from dualproc.resolve import load_spec

    other = [f"judge={{type: {json.dumps(judge)}}}"] if judge else []
    return load_spec(file, variant=variant, overrides=[*other, *overrides])


def _questions(spec: TaskSpec, fields: dict[str, str]) -> list[Question]:
    """The spec's questions, but for those that need to know something of the images that nobody said."""
    from dualproc.engine.ask import missing_fields, prompt_for

    prompt = prompt_for(spec, fields)
    unknown = {question.template: missing_fields(question, prompt) for question in spec.questions}
    asked = [question.for_prompt(prompt) for question in spec.questions if not unknown[question.template]]
    for template, names in unknown.items():
        told, hint = f"not asked: {template}", f"add {field_options(names)}"
        if not asked:
            raise DualprocError(told, hint=f"{hint}, or give a question of your own")
        if names:
            print_warning(f"{told} ({hint})")
    return asked


def _replies(
    asked: PluginRef | TaskSpec, files: Sequence[Path], questions: Sequence[Question], tokens: int | None
) -> list[list[Reply]]:
    """Load the judge (of a spec: with its visual prompt) and ask it."""
    from .progress import quiet

    quiet()
    from dualproc.engine.ask import ask as ask_judge
    from dualproc.engine.ensemble import build_judge
    from dualproc.engine.evaluators import Evaluators
    from dualproc.kit.image_files import batches
    from dualproc.spec import PluginRef

    images = batches(files, BATCH)
    if isinstance(asked, PluginRef):
        return ask_judge(build_judge([(1.0, asked)]), images, questions, tokens=tokens)
    evaluators = Evaluators(asked.model_copy(update={"referee": None, "scorers": ()}))  # neither is asked here
    return ask_judge(evaluators.judge, map(evaluators.judge_view, images), questions, tokens=tokens)


def _warn_of_other_answers(questions: Sequence[Question], replies: Sequence[Sequence[Reply]]) -> None:
    """Where all candidates together are improbable, their order says nothing."""
    for index, question in enumerate(questions):
        most = max(sum(row[index].probabilities) for row in replies)
        if most < SAYABLE:
            said = ", ".join(dict.fromkeys(row[index].words for row in replies[:3]))
            print_warning(
                f"the judge does not answer {question.text!r} with {' or '.join(question.candidates)} (P = {most:.1g} "
                f"together), but with: {said}"
            )


def _plain(files: Sequence[Path], questions: Sequence[Question], replies: Sequence[Sequence[Reply]]) -> list[Any]:
    """One mapping for each image and question."""
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


def _print(files: Sequence[Path], questions: Sequence[Question], replies: Sequence[Sequence[Reply]]) -> None:
    """One table a question, one row per image."""
    from dualproc.report.numeric import number

    for index, question in enumerate(questions):
        typer.echo(("\n" if index else "") + question.text)
        rows = [
            (str(file), row[index].words, *map(number, row[index].probabilities))
            for file, row in zip(files, replies, strict=True)
        ]
        print_table(("image", "answer", *(f"P({answer})" for answer in question.candidates)), rows)
