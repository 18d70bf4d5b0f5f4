"""`dp audit`: ask the questions of a spec about base images, before training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualproc.wording import MISSING, number, plural

from .arguments import AsJson, At, EveryVariant, File, Overrides, one_place
from .output import print_table, print_warning, say, stdout_for_the_result

if TYPE_CHECKING:
    from dualproc.engine.audit import Answered, Audit


def audit(
    file: File,
    overrides: Overrides = None,
    variant: EveryVariant = None,
    at: At = None,
    images: Annotated[int, typer.Option("--images", min=2, max=1000, help="Base images that are asked about.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Check the questions of a spec on images of the base generator, before training.

    Prints P(wanted answer) of judge and referee to each question: its mean and range over base images of training
    prompts, with and without the visual prompt. Points out questions that are blind (answered alike for every image),
    already answered as wanted, or answered in other words, and words that a model does not know. Exit code 1 if
    anything is pointed out.

    \b
    dp audit line_weight
    dp audit horizon --variant low --images 32
    dp audit horizon --variant low --set judge.type=qwen2.5-vl
    """
    from dualproc.resolve import read_checked

    values = one_place(at or ())
    with stdout_for_the_result(as_json):
        loaded = read_checked(file, overrides=overrides or (), variant=variant)
        specs = [one.require().at(values) for one in loaded.each()]
        from .progress import quiet

        quiet()
        from dualproc.engine.audit import audit_spec

        audits = {spec.label: audit_spec(spec, images=images) for spec in specs}
    if as_json:
        say(json.dumps({label: _as_data(one) for label, one in audits.items()}, indent=1, ensure_ascii=False))
    for label, one in audits.items() if not as_json else ():
        say(f"{label}: {plural(images, 'base image')}", bold=True)
        headings = ("question", "wanted", "asked", "P(wanted), as in training", "without visual prompt")
        print_table(headings, [_row(answered) for answered in one.answers])
        for finding in one.findings:
            print_warning(finding)
        say("" if one.findings else "ok: nothing to point out\n")
    if any(one.findings for one in audits.values()):
        raise typer.Exit(1)


def _row(one: Answered) -> tuple[str, ...]:
    plain = MISSING if one.plain_mean is None else number(one.plain_mean)
    seen = f"{number(one.mean)} ({number(min(one.seen))} to {number(max(one.seen))})"
    return one.question.template, one.question.candidates[one.question.wanted], one.role, seen, plain


def _as_data(audit: Audit) -> dict[str, Any]:
    """One mapping per question, and all findings."""
    answers = [
        {
            "question": one.question.template,
            "wanted": one.question.candidates[one.question.wanted],
            "asked": one.role,
            "p_wanted": one.seen,
            "without_visual_prompt": one.plain,
            "findings": one.findings,
        }
        for one in audit.answers
    ]
    return {"answers": answers, "findings": audit.findings}
