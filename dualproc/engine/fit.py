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
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dualproc.errors import DualprocError
from dualproc.protocols import Generator
from dualproc.run import Outcome, RunFolder, peak_memory, portable, write_card, write_report, write_samples
from dualproc.run.folder import default_folder
from dualproc.types import Evaluation, StepRecord

from . import lora
from .evaluate import evaluate, glance, held_out
from .failures import explained
from .loop import NotANumberError

if TYPE_CHECKING:
    from torch import Tensor

    from .loop import Engine

_ENDING = (signal.SIGINT, signal.SIGTERM)
"""What ends a fit after the current step: Ctrl+C, and what batch systems send when the time is up."""


class Progress(Protocol):
    """What a fit tells whoever watches it; the command line draws bars from it."""

    def step(self, record: StepRecord, total: int) -> None:
        """A step is done, of `total`."""

    def ending(self) -> None:
        """Ctrl+C or SIGTERM was heard: no further step is done."""

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
    skipped: int
    """Those of them that taught nothing: their loss or gradient was not finite."""
    lora_step: int
    """The step whose LoRA this is: the last one, or with `train.stop` the one that the referee liked best."""
    stopped: str | None
    """Why the fit ended before its last step; None if it did not."""
    interrupted: bool
    """Whether that was Ctrl+C, or SIGTERM."""
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

    SIGTERM does the same. Raises RunError if the folder cannot be used (see `RunFolder.create`) or written. Raises
    DualprocError if loss or gradient was not finite in several steps in a row: then the LoRA as it was before them is
    saved and measured; and if a plugin raises anything: then the last checkpoint is in the folder, to go on from.
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
            with explained(engine, run, lambda: "when its checkpoint was read", lambda: "start anew (`--overwrite`)"):
                engine.restore(checkpoint.tensors, checkpoint.state)
                watch.restore(checkpoint.tensors, checkpoint.state)
        end = _teach(engine, run, watch, progress)
        watch.take_best()
        with explained(engine, run, lambda: "when the LoRA was saved", lambda: "once that is mended, use `--resume`"):
            layers = lora.folded(engine.generator.adapter_module, spec.train.lora)
            run.write_lora(lambda folder: engine.generator.save_lora(folder, layers))
        try:
            evaluation = finish(engine, run, progress)
        finally:
            if end.error is not None:
                raise end.error
        records, lora_step = run.metrics(), watch.best_step or engine.done
        run.write_outcome(
            Outcome(
                steps=engine.done,
                lora_step=lora_step,
                stopped=end.stopped,
                interrupted=end.interrupted,
                seconds=sum(record.seconds for record in records),
                wall_seconds=time.perf_counter() - started,
                peak_memory=peak_memory(),
            )
        )
        return FitResult(
            run=run.path,
            evaluation=evaluation,
            steps=engine.done,
            skipped=sum(record.skipped for record in records),
            lora_step=lora_step,
            stopped=end.stopped,
            interrupted=end.interrupted,
            generator=engine.generator,
        )


def finish(engine: Engine, run: RunFolder, progress: Progress | None = None) -> Evaluation:
    """Measure the generator on the held-out pictures, and write samples, numbers, model card and report.

    Raises RunError if another process is writing the run, DualprocError if a plugin raises anything.
    """
    made, total = 0, 2 * len(held_out(engine)[1])

    def advance(count: int) -> None:
        nonlocal made
        made += count
        if progress is not None:
            progress.pictures(made, total)

    with (
        run.writing(),
        explained(
            engine,
            run,
            lambda: "in the measurement",
            lambda: f"the LoRA is saved: once that is mended, use `--resume`, or `dp score {run.path}`",
        ),
    ):
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


class _End(NamedTuple):
    """How the teaching ended."""

    stopped: str | None = None
    """Why before its last step; None if it did not."""
    interrupted: bool = False
    error: DualprocError | None = None
    """To be raised when what there is has been saved."""


def _teach(engine: Engine, run: RunFolder, watch: _Watch, progress: Progress | None) -> _End:
    """Run the steps, with checkpoints."""
    train, step = engine.spec.train, engine.done + 1

    def save() -> None:
        if run.saved_step != engine.done:
            (tensors, state), (more_tensors, more_state) = engine.state(), watch.state()
            run.save_checkpoint(engine.done, tensors | more_tensors, state | more_state)

    def doing() -> str:
        return f"in step {step}"

    def remedy() -> str:
        saved = run.saved_step
        return (
            f"once that is mended, `--resume` goes on from step {saved}"
            if saved
            else "nothing is saved yet: once that is mended, `--resume` starts again"
        )

    with _interruptible() as interrupted, explained(engine, run, doing, remedy):
        try:
            for record in engine.steps() if not watch.over else ():
                record = watch.look(record)
                run.log(record)
                step = record.step + 1
                if progress is not None:
                    progress.step(record, train.steps)
                last = watch.over or interrupted()
                if interrupted() and progress is not None:
                    progress.ending()
                if last or engine.done == train.steps or engine.done % train.checkpoint_every == 0:
                    save()
                if last:
                    break
        except NotANumberError as error:  # the skipped steps left the LoRA as it was: what was learnt is kept
            save()
            message = f"{error.message}; the LoRA as it was before them is in {run.path}"
            return _End(error=DualprocError(message, hint=error.hint))
        if interrupted() and engine.done < train.steps:
            return _End(f"interrupted after step {engine.done}", interrupted=True)
        if watch.over:
            return _End(
                f"stopped after step {engine.done}: the referee saw no improvement since step {watch.best_step}"
            )
        return _End()


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
        best = self.best if self.kept else None  # JSON has no infinity
        tensors = {f"best/{name}": value for name, value in self.kept.items()}
        return tensors, {"best": best, "best_step": self.best_step, "looks_since": self.looks_since}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.kept = {name.removeprefix("best/"): v for name, v in tensors.items() if name.startswith("best/")}
        self.best = state["best"] if self.kept else self.best
        self.best_step, self.looks_since = state.get("best_step", 0), state.get("looks_since", 0)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl+C or SIGTERM only sets a flag; the second one ends the process as usual."""
    pressed = False
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def handle(_signal: int, _frame: Any) -> None:
        nonlocal pressed
        pressed = True
        restore()

    try:
        for number in _ENDING:
            before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: no handler of ours, and no Ctrl+C either
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        restore()
