"""`dp run`: train a generator, and evaluate it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualproc.wording import command, plural

from .arguments import EveryVariant, File, Overrides, given_folder
from .memory import Fit, gpus, settings_that_fit, share
from .output import outlive_output, print_progress, print_table, print_warning, say

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
    from dualproc.engine.distributed import launched, processes
    from dualproc.kit.files import read as read_file
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

    if (count := launched()) > 1:
        print_progress(f"waiting for all {count} processes of this fit")
    others = processes()  # of the same fit, where a launcher started several

    def settings() -> list[str]:
        if fit is not Fit.auto:  # which may change the specs
            refuse()
        # Variants differ in what they ask, and their models need the same memory.
        return settings_that_fit(share(specs[0], others.count), gpus(), fit)

    given = overrides or []
    specs, targets = read(given)
    text = read_file(locate(file)).decode("utf-8")
    if more := others.decided(settings):
        specs, targets = read([*given, *more])
    others.decided(refuse)  # before hours of training, not after
    for spec, folder in zip(specs, targets, strict=True):
        if resume and others.decided(partial(is_finished, folder, spec.train.steps)):
            again = command("dp", "score", folder)
            say(f"{spec.label}: already finished, in {folder} (evaluate it again: {again})")
        elif _fit_one(spec, text, folder, resume=resume, overwrite=overwrite).outcome.interrupted:
            raise typer.Exit(130)


def _target(spec: TaskSpec, out: str | None, *, several: bool) -> Path:
    from dualproc.run.folder import default_folder

    if out is None:
        return default_folder(spec.name, spec.variant)
    return given_folder(out) / (spec.variant or "") if several else given_folder(out)


def _fit_one(spec: TaskSpec, text: str, out: Path, *, resume: bool, overwrite: bool) -> FitResult:
    from dualproc.engine import trackers
    from dualproc.report import memory_used
    from dualproc.resolve import published
    from dualproc.run import reset_peak_gpu_memory
    from dualproc.run.files import make_folder
    from dualproc.run.folder import METRICS
    from dualproc.run.lock import FolderLock

    from .loading import loaded_models
    from .progress import FitBars, quiet

    outlive_output()
    quiet()
    reset_peak_gpu_memory()
    trackers.check(spec.train.trackers)  # before the models are loaded
    if resume and not (out / METRICS).exists():
        say(f"{spec.label}: nothing to resume in {out}, starting a new run")
    judges = " + ".join(ref.type for _, ref in spec.judges)
    say(f"{spec.label}: loading {spec.generator.type} (generator) and {judges} (judge)", bold=True)
    from dualproc.engine import Engine
    from dualproc.engine.distributed import processes
    from dualproc.engine.fit import fit

    new, lock = not out.exists(), None
    with processes().agreed():
        if processes().first:
            make_folder(out)
            lock = FolderLock(out)  # before the models are loaded: another `dp run` would load them for nothing
    try:
        engine = Engine(spec)
        for line in loaded_models(engine):
            say(line)
        if settings := published(spec):
            say(f"  {settings}")
        with FitBars() as bars:
            result = fit(engine, out, spec_text=text, resume=resume, overwrite=overwrite, progress=bars, lock=lock)
    except KeyboardInterrupt:
        trained = (out / METRICS).exists()
        advice = "continue from the last checkpoint with --resume" if trained else "no training step is done yet"
        say(f"\ninterrupted: {advice}", fg="yellow", err=True)
        raise typer.Exit(130) from None
    finally:
        if lock is not None:
            lock.release(undo=new)
    outcome = result.outcome
    if outcome.stopped:
        advice = " (continue with --resume)" if outcome.interrupted else ""
        say(f"{outcome.stopped}; the LoRA so far is saved{advice}", fg="yellow")
    if outcome.skipped:
        print_warning(f"{plural(outcome.skipped, 'training step')} skipped: loss or gradient was not finite")
    if outcome.lora_step != outcome.steps:
        say(f"the LoRA is from training step {outcome.lora_step}, where the referee's score was highest")
    print_evaluation(result.evaluation, result.warnings)
    say(f"  memory    peak: {memory_used(outcome) or 'unknown'}")
    say(f"  images    {result.run / 'samples' / 'before_after.png'}")
    say(f"  report    {result.run / 'report.html'}")
    prompt = result.evaluation.prompts[0].text
    say(f"  next      {command('dp', 'generate', result.run, prompt, '--seed', 3, *_shown(spec))}\n")
    return result


def _shown(spec: TaskSpec) -> tuple[str | int, ...]:
    """The options of `dp generate` that show what was trained: the first slider from end to end, or four images."""
    for name, slider in spec.sliders.items():
        return "--at", f"{name}={slider.low:g}..{slider.high:g}", "-n", 7
    return "-n", 4


def print_evaluation(evaluation: Evaluation, notes: Sequence[str]) -> None:
    """Print the result, its table and, to stderr, warnings about it; `notes` are the run's warnings so far."""
    from dualproc.report import alarms, summary_rows
    from dualproc.report.summary import outcome, verdict

    images = plural(len(evaluation.seeds), "held-out image")
    say(f"\nEvaluation on {images} (prompts and seeds never trained on):")
    found = verdict(evaluation)
    say(f"{outcome(evaluation)}. {found.sentence}".rstrip(), bold=True, fg=_COLOURS.get(found.level))
    print_table(("", "base", "trained", "note"), summary_rows(evaluation))
    for alarm in alarms(evaluation, notes):
        print_warning(alarm)
