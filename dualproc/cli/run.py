"""`dp run` and `dp generate`: train a generator, and generate images with it."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.errors import DualprocError
from dualproc.wording import command, plural

from .arguments import EveryVariant, File, Overrides, given_folder
from .memory import Fit, gpus, settings_that_fit
from .output import print_table, print_warning
from .sliders import generate_at

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dualproc.engine import FitResult
    from dualproc.spec import TaskSpec
    from dualproc.types import Evaluation

_COLOURS = {"good": "green", "partial": "yellow", "poor": "red"}


def run(
    file: File,
    overrides: Overrides = None,
    variant: EveryVariant = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The run folder; with several variants, its subfolders are the runs.",
            show_default="runs/NAME/VARIANT",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run from its last checkpoint.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete an earlier run in the same folder and start again.")
    ] = False,
    fit: Annotated[
        Fit,
        typer.Option(
            help="If training does not fit into the free memory of a GPU: stop and print settings that fit, use such "
            "settings, or do not check."
        ),
    ] = Fit.check,
) -> None:
    """Train a LoRA as declared in a spec, and evaluate it.

    Every run gets a folder with the LoRA, checkpoints, the evaluation on held-out prompts, and a report. Ctrl+C (or
    SIGTERM) ends the training after the current step; the LoRA so far is still saved and evaluated. A second Ctrl+C
    exits at once. Continue either with --resume; then --set may change evaluation.*, train.watch.*,
    train.checkpoint_every, train.accumulate, train.trackers, and the models' device, checkpointing and offload, for
    example if memory ran out. With a higher train.steps, --resume also continues a finished run, to the result of one
    longer run.

    \b
    dp run line_weight
    dp run line_weight --variant thick --set train.steps=50 --out runs/short
    dp run line_weight --variant thick --resume
    dp run line_weight --variant thick --resume --set train.steps=300
    dp run line_weight --variant thin --set train.lora.init=runs/line_weight/thick
    torchrun --nproc-per-node 4 -m dualproc run line_weight      one fit in several processes, see docs/scale.md
    """
    from dualproc.engine.distributed import processes
    from dualproc.report.bench import is_finished
    from dualproc.resolve import read_checked
    from dualproc.run import RunFolder, portable
    from dualproc.spec import locate

    def read(overrides: Sequence[str]) -> tuple[list[TaskSpec], list[Path]]:
        specs = [one.require() for one in read_checked(file, overrides=overrides, variant=variant).each()]
        return specs, [_target(spec, out, several=len(specs) > 1) for spec in specs]

    def refuse() -> None:
        for spec, folder in zip(specs, targets, strict=True):
            RunFolder.refuse(folder, portable(spec, folder).text, resume=resume, overwrite=overwrite)

    def settings() -> list[str]:
        if fit is not Fit.auto:  # which may change the specs
            refuse()
        # Variants differ in what they ask, and their models need the same memory.
        return settings_that_fit(specs[0], gpus(), fit)

    given = overrides or []
    specs, targets = read(given)
    text = locate(file).read_text(encoding="utf-8")
    others = processes()  # of the same fit, where a launcher started several
    if more := others.decided(settings):
        specs, targets = read([*given, *more])
    others.decided(refuse)  # before hours of training, not after
    for spec, folder in zip(specs, targets, strict=True):
        if resume and others.decided(partial(is_finished, folder, spec.train.steps)):
            again = command("dp", "score", folder)
            typer.echo(f"{spec.label}: already finished, in {folder} (evaluate it again: {again})")
        elif _fit_one(spec, text, folder, resume=resume, overwrite=overwrite).outcome.interrupted:
            raise typer.Exit(130)


def _target(spec: TaskSpec, out: str | None, *, several: bool) -> Path:
    from dualproc.run.folder import default_folder

    if out is None:
        return default_folder(spec.name, spec.variant)
    return given_folder(out) / (spec.variant or "") if several else given_folder(out)


def _fit_one(spec: TaskSpec, text: str, out: Path, *, resume: bool, overwrite: bool) -> FitResult:
    from dualproc.report import memory_used
    from dualproc.run import reset_peak_gpu_memory
    from dualproc.run.folder import METRICS

    from .loading import loaded_models
    from .progress import FitBars, quiet

    quiet()
    reset_peak_gpu_memory()
    if resume and not (out / METRICS).exists():
        typer.echo(f"{spec.label}: nothing to resume in {out}, starting a new run")
    judges = " + ".join(ref.type for _, ref in spec.judges)
    typer.secho(f"{spec.label}: loading {spec.generator.type} (generator) and {judges} (judge)", bold=True)
    from dualproc.engine import Engine
    from dualproc.engine.fit import fit

    try:
        engine = Engine(spec)
        for line in loaded_models(engine):
            typer.echo(line)
        with FitBars() as bars:
            result = fit(engine, out, spec_text=text, resume=resume, overwrite=overwrite, progress=bars)
    except KeyboardInterrupt:
        trained = (out / METRICS).exists()
        advice = "continue from the last checkpoint with --resume" if trained else "no training step is done yet"
        typer.secho(f"\ninterrupted: {advice}", fg="yellow", err=True)
        raise typer.Exit(130) from None
    outcome = result.outcome
    if outcome.stopped:
        advice = " (continue with --resume)" if outcome.interrupted else ""
        typer.secho(f"{outcome.stopped}; the LoRA so far is saved{advice}", fg="yellow")
    if outcome.skipped:
        print_warning(f"{plural(outcome.skipped, 'training step')} skipped: loss or gradient was not finite")
    if outcome.lora_step != outcome.steps:
        typer.echo(f"the LoRA is from training step {outcome.lora_step}, where the referee's score was highest")
    print_evaluation(result.evaluation, result.warnings)
    typer.echo(f"  memory    peak: {memory_used(outcome) or 'unknown'}")
    typer.echo(f"  images    {result.run / 'samples' / 'before_after.png'}")
    typer.echo(f"  report    {result.run / 'report.html'}")
    prompt = result.evaluation.prompts[0].text
    typer.echo(f"  next      {command('dp', 'generate', result.run, prompt, '--seed', 3, '-n', 4)}\n")
    return result


def generate(
    runs: Annotated[list[str], typer.Argument(metavar="RUN", help="Run folders, such as runs/line_weight/thick.")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt, such as 'a cartoon of an owl'.")],
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Seed of the first image; the next ones use SEED+1, ...")
    ] = 0,
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Number of images.")] = 1,
    at: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SLIDER=VALUE",
            help="Value of a slider: --at row=0.42. A range, such as row=0.3..0.6, draws one seed at -n values. "
            "Repeatable.",
            show_default="the middle of its range",
        ),
    ] = None,
    strengths: Annotated[
        list[float] | None,
        typer.Option(
            "--strength",
            help="Strength of the LoRA: 1 is as trained, 0 is the base generator. With several runs, one for all, or "
            "repeated for each.",
            show_default="1",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder for the images.", show_default="RUN/generated")
    ] = None,
) -> None:
    """Generate images with the LoRAs of one or more runs.

    Writes one PNG file per seed and prints its path. If the spec has sliders, --at chooses their values; with a range,
    it writes one file per value, and all of them side by side. Several runs need the same generator; their LoRAs add
    up, with sliders in the middle.

    \b
    dp generate runs/line_weight/thick "a cartoon of an owl" --seed 3 -n 4
    dp generate runs/line_weight/thick "a cartoon of an owl" --seed 3 --strength 0
    dp generate runs/line_weight/thick runs/palette/retro "a cartoon of an owl" --strength .7 --strength .5
    dp generate runs/horizon "a cartoon of a sheep" --at row=0.42
    dp generate runs/horizon "a cartoon of a sheep" --at row=0.3..0.6 -n 7
    """
    if not prompt.strip():
        raise DualprocError("the prompt is empty", hint='for example "a cartoon of an owl"')
    if len(runs) > 1:
        if at:
            hint = "give a single run, or export the value first: dp export RUN --at ... --out FOLDER"
            raise DualprocError("`--at` needs a single run; with several runs, sliders are in the middle", hint=hint)
        from .several import generate_sum

        generate_sum(runs, prompt, strengths or [1.0], seed=seed, count=count, out=out)
        return
    run, strength = runs[0], strengths[-1] if strengths else 1.0
    if not math.isfinite(strength):
        hint = "1 is as trained, 0 is the base generator"
        raise DualprocError(f"expected a finite number, got `--strength {strength}`", hint=hint)
    generate_at(run, prompt, at or (), seed=seed, count=count, strength=strength, out=out)


def print_evaluation(evaluation: Evaluation, notes: Sequence[str]) -> None:
    """Print the result, its table and, to stderr, warnings about it; `notes` are the run's warnings so far."""
    from dualproc.report import alarms, summary_rows
    from dualproc.report.summary import outcome, verdict

    images = plural(len(evaluation.seeds), "held-out image")
    typer.echo(f"\nEvaluation on {images} (prompts and seeds never trained on):")
    found = verdict(evaluation)
    typer.secho(f"{outcome(evaluation)}. {found.sentence}".rstrip(), bold=True, fg=_COLOURS.get(found.level))
    print_table(("", "base", "trained", "note"), summary_rows(evaluation))
    for alarm in alarms(evaluation, notes):
        print_warning(alarm)
