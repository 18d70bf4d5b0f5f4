"""`dp score`: evaluate a run again, or measure any images with the scorers and models of a spec."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.errors import DualprocError, RunError
from dualproc.kit.image_files import batches, image_files
from dualproc.wording import number, plural

from .arguments import (
    AsJson,
    At,
    Fields,
    Overrides,
    SpecFile,
    Variant,
    field_options,
    given_path,
    named_values,
    one_place,
)
from .output import outlive_output, print_table, print_warning, say, stdout_for_the_result
from .run import print_evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dualproc.spec import TaskSpec
    from dualproc.types import Measurement, Prompt

FORMS = """\
a run:       dp score runs/horizon/high
  any images:  dp score IMAGES --spec horizon --variant high"""


def score(
    places: Annotated[
        list[str],
        typer.Argument(metavar="RUN|IMAGE", help="A run folder or, with --spec, images and folders of images."),
    ],
    spec: SpecFile = None,
    variant: Variant = None,
    overrides: Overrides = None,
    fields: Fields = None,
    at: At = None,
    as_json: AsJson = False,
    csv: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write the numbers of every image to a CSV file.")
    ] = None,
) -> None:
    """Evaluate a run again, or measure any images.

    For a run, the images of its held-out prompts and seeds are generated and measured again, and the report is
    rewritten. --set may change evaluation.* and the models' device, checkpointing and offload.

    With --spec, the spec's scorers, judge and referee measure image files of any origin; no image is generated. If a
    question of the spec has a placeholder such as {subject}, give its value for all images with --field.

    \b
    dp score runs/line_weight/thick
    dp score runs/line_weight/thick --set evaluation.batch=1
    dp score images/ --spec horizon --variant high --csv numbers.csv
    dp score cat.png --spec horizon --variant high --field subject="a cat" --json
    """
    if spec is None:
        if variant or fields or at or as_json or csv:
            raise DualprocError("--variant, --field, --at, --json and --csv need images and --spec", hint=FORMS)
        _score_run(places, overrides or ())
        return
    from dualproc.engine.ask import prompt_for
    from dualproc.report import image_columns
    from dualproc.resolve import load_spec

    with stdout_for_the_result(as_json):
        loaded = load_spec(spec, overrides=overrides or (), variant=variant).at(one_place(at or ()))
        prompt = prompt_for(loaded, named_values(fields or ()))
        task = _without_unanswerable(loaded, prompt)
        files = image_files(places)
        from .progress import Bars, quiet

        quiet()
        from dualproc.engine.evaluate import measure_batches
        from dualproc.engine.evaluators import Evaluators

        evaluators = Evaluators(task)
        with Bars(disable=as_json) as bars:
            bar = bars.add_task("evaluating", total=len(files), note="")
            images = batches(files, task.evaluation.batch)
            measured = measure_batches(evaluators, images, prompt, lambda count: bars.more(bar, count))
    if as_json:
        say(_as_json(task, files, measured))
    else:
        _print_images(task, files, measured)
    if csv is not None:
        _write_csv(given_path(csv), files, image_columns(measured))


def _score_run(places: Sequence[str], overrides: Sequence[str]) -> None:
    from dualproc.run import RunFolder
    from dualproc.run.lock import refuse_locked

    if len(places) > 1:
        raise DualprocError(f"expected one run, got {len(places)}; images need --spec", hint=FORMS)
    try:
        RunFolder.open(places[0])
    except RunError as error:
        raise RunError(error.message, hint="\n  ".join(filter(None, (error.hint, FORMS)))) from error
    refuse_locked(Path(places[0]))  # before the models are loaded
    from .progress import FitBars, quiet

    outlive_output()
    quiet()
    from dualproc.engine.fit import finish
    from dualproc.engine.reload import load_engine

    folder, engine = load_engine(places[0], overrides=overrides)
    with FitBars() as bars:
        evaluation = finish(engine, folder, bars)
    print_evaluation(evaluation, folder.read_warnings())
    say(f"  report    {folder.path / 'report.html'}")


def _without_unanswerable(spec: TaskSpec, prompt: Prompt) -> TaskSpec:
    """The spec without its `preserve` question if that uses a field which the prompt does not have, after a warning.

    Raises DualprocError if a question of the task itself uses such a field.
    """
    from dualproc.engine.ask import missing_fields

    names = sorted({name for question in spec.measured_questions for name in missing_fields(question, prompt)})
    if names:
        templates = " / ".join(question.template for question in spec.measured_questions)
        raise DualprocError(f"a field of the question has no value: {templates}", hint=f"add {field_options(names)}")
    if spec.preserve is not None and spec.referee is not None and (names := missing_fields(spec.preserve, prompt)):
        print_warning(f"not asked: {spec.preserve.template} (add {field_options(names)})")
        return spec.model_copy(update={"question": spec.measured_questions, "preserve": None})
    return spec


def _print_images(spec: TaskSpec, files: Sequence[Path], measured: Measurement) -> None:
    from dualproc.report import image_columns, image_rows

    say(f"\n{plural(len(files), 'image')}, measured with {spec.label}:")
    print_table(("", "mean", "on target", "note"), image_rows(measured))
    columns = image_columns(measured)
    numbers = zip(*(values for _, values in columns), strict=True)
    rows = [(str(path), *map(number, row)) for path, row in zip(files, numbers, strict=True)]
    say()
    print_table(("image", *(heading.replace("_", " ") for heading, _ in columns)), rows)


def _as_json(spec: TaskSpec, files: Sequence[Path], measured: Measurement) -> str:
    """The output of `--json`. As in evaluation.json of a run, every list has one number per image."""
    from dualproc.run.records import to_json

    numbers = {key: getattr(measured, key) for key in ("scores", "judge", "referee", "preserved")}
    about = {"spec": spec.name, "variant": spec.variant, "images": list(map(str, files))}
    return to_json(about | numbers, indent=1)


def _write_csv(target: Path, files: Sequence[Path], columns: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Write one row per image; the cell of a value that could not be measured is empty."""
    import csv

    rows = zip(files, *(values for _, values in columns), strict=True)
    try:
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", *(heading for heading, _ in columns)])
            writer.writerows([path, *(value if math.isfinite(value) else "" for value in row)] for path, *row in rows)
    except OSError as error:
        raise DualprocError(f"cannot write {target}: {error.strerror or error}") from error
