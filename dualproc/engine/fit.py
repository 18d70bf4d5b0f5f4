"""One fit from start to run folder: steps, checkpoints, the referee's looks, the measurement, the files."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dualproc.run import RunFolder, write_card, write_report, write_samples
from dualproc.spec import to_yaml
from dualproc.types import Evaluation, StepRecord

from . import lora
from .evaluate import evaluate, glance, held_out

if TYPE_CHECKING:
    from torch import Tensor

    from .loop import Engine


class Progress(Protocol):
    """What a fit tells whoever watches it; the command line draws bars from it."""

    def step(self, record: StepRecord, total: int) -> None:
        """A step is done, of `total`."""

    def pictures(self, done: int, total: int) -> None:
        """`done` of `total` held-out pictures are made."""


@dataclass(frozen=True)
class FitResult:
    """What a fit gives back."""

    run: Path
    """The run folder."""
    evaluation: Evaluation
    steps: int
    stopped: str | None
    """Why the fit ended before its last step; None if it did not."""
    pipeline: Any
    """The generator's own pipeline, with the LoRA on."""


def default_folder(name: str, variant: str | None) -> Path:
    """Where a run goes if nobody says: `runs/<name>`, or `runs/<name>/<variant>`."""
    return Path("runs", name, variant or "")


def fit(
    engine: Engine,
    out: str | PathLike[str] | None = None,
    *,
    spec_text: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> FitResult:
    """Teach, measure and write the run folder; Ctrl+C ends the teaching after the current step, and keeps the rest.

    Raises RunError if the folder cannot be used (see `RunFolder.create`), DualprocError if the training breaks down:
    then the last checkpoint is in the folder.
    """
    spec = engine.spec
    resolved = to_yaml(spec)
    folder = Path(out) if out is not None else default_folder(spec.name, spec.variant)
    with RunFolder.create(
        folder, spec_text=spec_text or resolved, resolved_text=resolved, resume=resume, overwrite=overwrite
    ) as run:
        checkpoint = run.latest_checkpoint() if resume else None
        if checkpoint is not None:
            engine.restore(dict(checkpoint.tensors), dict(checkpoint.state))
        stopped = _teach(engine, run, progress)
        engine.generator.save_lora(run.path, lora.folded(engine.generator.adapter_module, spec.train.lora))
        evaluation = finish(engine, run, progress)
        return FitResult(run.path, evaluation, engine.done, stopped, engine.generator.pipeline())


def finish(engine: Engine, run: RunFolder, progress: Progress | None = None) -> Evaluation:
    """Measure the generator on the held-out pictures, and write samples, numbers, model card and report."""
    prompts, seeds = held_out(engine)
    made, total = 0, 2 * len(seeds)

    def advance(count: int) -> None:
        nonlocal made
        made += count
        if progress is not None:
            progress.pictures(made, total)

    evaluation, pictures = evaluate(engine, advance)
    write_samples(
        run.samples,
        pictures.base,
        pictures.taught,
        prompts=[prompt.text for prompt in prompts],
        seeds=seeds,
        overlaid=pictures.overlaid if engine.spec.visual_prompt else None,
    )
    run.write_evaluation(evaluation)
    write_card(run, base_model=_base_model(engine))
    write_report(run)
    return evaluation


def _teach(engine: Engine, run: RunFolder, progress: Progress | None) -> str | None:
    """Run the steps; returns why they ended early, or None."""
    train, watch = engine.spec.train, _Watch(engine)
    with _interruptible() as interrupted:
        try:
            for record in engine.steps():
                record = watch.look(record)
                run.log(record)
                if progress is not None:
                    progress.step(record, train.steps)
                if record.step % train.checkpoint_every == 0 or record.step == train.steps:
                    run.save_checkpoint(record.step, *engine.state())
                if interrupted():
                    return f"interrupted after step {record.step}"
                if watch.over:
                    watch.restore_best()
                    return f"the referee saw no improvement since step {watch.best_step}; the LoRA is that step's"
            return None
        finally:
            if engine.done % train.checkpoint_every and engine.done:
                run.save_checkpoint(engine.done, *engine.state())


class _Watch:
    """Looks at a fit that goes on; where the spec has a `stop`, keeps the best LoRA so far and says when it is over."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.stop = engine, engine.spec.train.stop
        self.best, self.best_step, self.looks_since = float("-inf"), 0, 0
        self.kept: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        return self.stop is not None and self.looks_since >= self.stop.patience

    def look(self, record: StepRecord) -> StepRecord:
        """The record, with referee and hack meter at the steps where they are read."""
        if record.step % self.engine.spec.train.watch.every:
            return record
        score, hacked = glance(self.engine)
        record = replace(record, referee=score, hack_meter=hacked)
        if self.stop is None or score is None:
            return record
        if score > self.best + self.stop.min_delta:
            adapter = lora.state(self.engine.generator.adapter_module)
            self.kept = {name: value.clone() for name, value in adapter.items()}
            self.best, self.best_step, self.looks_since = score, record.step, 0
        else:
            self.looks_since += 1
        return record

    def restore_best(self) -> None:
        lora.restore(self.engine.generator.adapter_module, self.kept)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl+C only sets a flag; the second one interrupts as usual."""
    pressed = False

    def handle(_signal: int, _frame: Any) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, previous)

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread: no handler of ours, and no Ctrl+C either
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def _base_model(engine: Engine) -> str:
    return str(engine.spec.generator.params.get("model", engine.spec.generator.type))
