"""`dp write-questions`: let a language model write questions for a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dualproc.errors import DualprocError

from .output import print_warning, say


def write_questions(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="A prompt, or a template such as 'a cartoon of {subject}'.")
    ],
    model: Annotated[str | None, typer.Option(metavar="NAME", help="A model of an OpenAI-compatible endpoint.")] = None,
    url: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The endpoint.", show_default="OPENAI_BASE_URL, or OpenAI's"),
    ] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="NAME", help="A judge plugin that writes, in place of an endpoint.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=50, help="How many questions to ask for.")] = 4,
    instruction: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Instruction text with {prompt} and {count}.", show_default="the shipped text"
        ),
    ] = None,
) -> None:
    """Write questions for a prompt, as the `question` of a spec.

    The writer is a judge that can write text (--judge), or a model of an OpenAI-compatible endpoint (--model), which
    gets the prompt and the instruction; its key is read from OPENAI_API_KEY. An endpoint needs the extra `write`: pip
    install 'dualproc[write]'. What the model writes is checked like anything typed; what is refused is printed as a
    warning. Ask the questions first: dp audit.

    \b
    dp write-questions "a cartoon of {subject} at night" --model gpt-5-mini
    dp write-questions "a red car" --model qwen3 --url http://127.0.0.1:8000/v1 > questions.yaml
    dp write-questions "a red car" --judge qwen2.5-vl -n 8
    """
    if (model is None) == (judge is None):
        raise DualprocError("expected one writer: --model NAME of an endpoint, or --judge NAME")
    from dualproc.engine import write
    from dualproc.spec import PluginRef
    from dualproc.spec.editing import edited

    if judge is not None:
        from .progress import quiet

        quiet()
        writer = write.judge_as_writer(PluginRef(type=judge))
    else:
        writer = write.endpoint(model or "", url=url)
    text = None if instruction is None else write.read_instruction(instruction)
    found = write.write_questions(prompt, writer, count=count, instruction=text)
    rows = [{"template": one.template, "answer": one.answer} for one in found.questions]
    say(f"# Written by {found.by}. Ask them before you train: dp audit SPEC")
    say(edited("", ("question",), rows).rstrip())
    for refused in found.refused:
        print_warning(f"refused: {refused}")
