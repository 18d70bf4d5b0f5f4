"""One fit from start to run folder: steps, checkpoints, the referee's looks, the measurement, the files."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dualproc.errors import DualprocError
from dualproc.protocols import Generator
from dualproc.run import Outcome, RunFolder, peak_memory, portable, write_card, write_report, write_samples
from dualproc.run.folder import default_folder
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
    """Steps done."""
    lora_step: int
    """The step whose LoRA this is: the last one, or with `train.stop` the one that the referee liked best."""
    stopped: str | None
    """Why the fit ended before its last step; None if it did not."""
    interrupted: bool
    """Whether that was Ctrl+C."""
    generator: Generator
    """The generator that was taught."""

    @property
    def pipeline(self) -> Any:
        """The generator's own pipeline, with the LoRA on."""
        return self.generator.pipeline()


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
    started, spec = time.perf_counter(), engine.spec
    resolved = portable(spec)
    folder = Path(out) if out is not None else default_folder(spec.name, spec.variant)
    with RunFolder.create(
        folder,
        spec_text=spec_text or resolved.text,
        resolved_text=resolved.text,
        files=resolved.files,
        resume=resume,
        overwrite=overwrite,
    ) as run:
        watch = _Watch(engine)
        checkpoint = run.latest_checkpoint() if resume else None
        if checkpoint is not None:
            engine.restore(checkpoint.tensors, checkpoint.state)
            watch.restore(checkpoint.tensors, checkpoint.state)
        stopped, interrupted = _teach(engine, run, watch, progress)
        watch.take_best()
        engine.generator.save_lora(run.path, lora.folded(engine.generator.adapter_module, spec.train.lora))
        evaluation = finish(engine, run, progress)
        lora_step = watch.best_step or engine.done
        run.write_outcome(
            Outcome(
                steps=engine.done,
                lora_step=lora_step,
                stopped=stopped,
                interrupted=interrupted,
                seconds=sum(record.seconds for record in run.metrics()),
                wall_seconds=time.perf_counter() - started,
                peak_memory=peak_memory(),
            )
        )
        return FitResult(run.path, evaluation, engine.done, lora_step, stopped, interrupted, engine.generator)


def finish(engine: Engine, run: RunFolder, progress: Progress | None = None) -> Evaluation:
    """Measure the generator on the held-out pictures, and write samples, numbers, model card and report."""
    made, total = 0, 2 * len(held_out(engine)[1])

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
        prompts=[prompt.text for prompt in evaluation.prompts],
        seeds=evaluation.seeds,
        overlaid=pictures.overlaid if engine.spec.visual_prompt else None,
    )
    run.write_evaluation(evaluation)
    write_card(run, engine.generator.recipe())
    write_report(run)
    return evaluation


def _teach(engine: Engine, run: RunFolder, watch: _Watch, progress: Progress | None) -> tuple[str | None, bool]:
    """Run the steps; returns why they ended early (or None), and whether that was Ctrl+C."""
    train = engine.spec.train

    def save() -> None:
        (tensors, state), (more_tensors, more_state) = engine.state(), watch.state()
        run.save_checkpoint(engine.done, tensors | more_tensors, state | more_state)

    with _interruptible() as interrupted:
        try:
            for record in engine.steps() if not watch.over else ():
                record = watch.look(record)
                run.log(record)
                if progress is not None:
                    progress.step(record, train.steps)
                last = watch.over or interrupted() or engine.done == train.steps
                if last or engine.done % train.checkpoint_every == 0:
                    save()
                if last:
                    break
        except DualprocError:  # the steps that were not numbers left the weights as they were
            save()
            raise
        if interrupted() and engine.done < train.steps:
            return f"interrupted after step {engine.done}", True
        if watch.over:
            return (
                f"stopped after step {engine.done}: the referee saw no improvement since step {watch.best_step}",
                False,
            )
        return None, False


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
        if self.stop is not None and score is not None:
            if math.isfinite(score) and score > self.best + self.stop.min_delta:
                adapter = lora.state(self.engine.generator.adapter_module)
                self.kept = {name: value.clone() for name, value in adapter.items()}
                self.best, self.best_step, self.looks_since = score, record.step, 0
            else:
                self.looks_since += 1
        return replace(record, referee=score, hack_meter=hacked)

    def take_best(self) -> None:
        """Set the LoRA to the best one seen, if any was kept."""
        if self.kept:
            lora.restore(self.engine.generator.adapter_module, self.kept)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps of it."""
        tensors = {f"best/{name}": value for name, value in self.kept.items()}
        return tensors, {
            "best": self.best,
            "best_step": self.best_step,
            "looks_since": self.looks_since,
        } if tensors else {}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.kept = {name.removeprefix("best/"): v for name, v in tensors.items() if name.startswith("best/")}
        if self.kept:
            self.best, self.best_step, self.looks_since = state["best"], state["best_step"], state["looks_since"]


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
