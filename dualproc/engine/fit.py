"""One fit, from start to run folder: training steps, checkpoints, monitoring, the evaluation, the files."""

from __future__ import annotations

import functools
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dualproc.errors import DualprocError, NotFiniteError
from dualproc.protocols import Generator
from dualproc.report import (
    headline,
    lora_facts,
    result_html,
    write_card,
    write_preview,
    write_report,
    write_samples,
    write_strips,
)
from dualproc.report.bench import result_of
from dualproc.run import Outcome, RunFolder, peak_gpu_memory, peak_memory, portable
from dualproc.run.environment import environment
from dualproc.run.folder import RESOLVED, default_folder
from dualproc.run.lock import FolderLock
from dualproc.spec import TaskSpec
from dualproc.types import Evaluation, StepRecord
from dualproc.wording import command, duration, number, plural

from . import lora, sliders
from .evaluate import Pair, draw, evaluate, held_out, monitor, preview
from .failures import explained
from .loop import Loop
from .sliders import set_sliders
from .trackers import Trackers
from .warned import noting

if TYPE_CHECKING:
    from torch import Tensor

_ENDING = (signal.SIGINT, signal.SIGTERM)
"""Signals that end the training after the current step: Ctrl+C, and what batch systems send when time is up."""


class Progress(Protocol):
    """Receives the progress of a fit; the command line draws bars from it."""

    def step(self, record: StepRecord, total: int) -> None:
        """A training step is done, out of `total`."""

    def ending(self) -> None:
        """Ctrl+C or SIGTERM was received: no training step follows this one. The signal's handler calls it at once."""

    def images(self, done: int, total: int) -> None:
        """`done` of `total` held-out images are generated."""


@dataclass(frozen=True, repr=False)
class FitResult:
    """The result of a fit. Its `repr` is the result in one line; in a notebook, it is a table with images."""

    run: Path
    """The run folder."""
    evaluation: Evaluation
    outcome: Outcome
    """Training steps, seconds, memory, and why the fit ended early if it did."""
    generator: Generator
    """The trained generator."""
    spec: TaskSpec
    warnings: tuple[str, ...] = ()
    """Every warning of this run, as in its report."""

    def __repr__(self) -> str:
        return f"FitResult({str(self.run)!r}: {headline(self.evaluation)}; {self._took()})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return result_html(self.run, self.evaluation, notes=self.warnings, took=self._took())

    def _took(self) -> str:
        trained = f"{plural(self.outcome.steps, 'training step')} in {duration(self.outcome.seconds)}"
        return f"{trained}; {self.outcome.stopped}" if self.outcome.stopped else trained

    @property
    def pipeline(self) -> Any:
        """The generator's own pipeline, with the LoRA on."""
        return self.generator.pipeline()

    def at(self, **values: float) -> Any:
        """The pipeline with the LoRA's sliders at these values, such as `row=0.42`; the others are in the middle.

        Raises DualprocError if a value is outside its slider's range.
        """
        set_sliders(self.generator, self.spec, values)
        return self.pipeline


def fit(
    loop: Loop,
    out: str | PathLike[str] | None = None,
    *,
    spec_text: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    lock: FolderLock | None = None,
) -> FitResult:
    """Train, evaluate and write the run folder, of which the caller may already hold the `lock`.

    Ctrl+C or SIGTERM ends the training after the current step; the LoRA is still saved and evaluated.

    Raises RunError if the folder cannot be used (see `RunFolder.create`) or written. Raises DualprocError if loss or
    gradient was not finite in several steps in a row, after saving and evaluating the LoRA as it was before them, and
    if a plugin raises anything: then the folder has the last checkpoint, for `resume`.
    """
    processes = loop.processes
    if not processes.first:
        return _follow(loop)
    started, spec = time.perf_counter(), loop.spec
    folder = Path(out) if out is not None else default_folder(spec.name, spec.variant)
    with processes.agreed():
        resolved = portable(spec, folder)
        run = RunFolder.create(
            folder,
            spec_text=spec_text or resolved.text,
            resolved_text=resolved.text,
            files=resolved.files,
            env=environment() | ({"processes": processes.count} if processes.count > 1 else {}),
            resume=resume,
            overwrite=overwrite,
            lock=lock,
        )
    with run, noting(loop.warnings), ExitStack() as afterwards:
        with processes.agreed():
            trackers = Trackers(spec, folder, resolved.text)
        afterwards.callback(trackers.close)
        monitoring = _Monitoring(loop)
        checkpoint = processes.decided(lambda: run.latest_checkpoint() if resume else None)
        if checkpoint is not None:
            with explained(loop, run, "while its checkpoint was read", "start again with `overwrite=True`"):
                loop.restore(checkpoint.tensors, checkpoint.state)
                monitoring.restore(checkpoint.tensors, checkpoint.state)
        end = _train(loop, run, monitoring, trackers, progress)

        def save() -> None:
            _take(loop, monitoring.kept)
            with explained(loop, run, "while the LoRA was saved", "fix the cause, then continue with `resume=True`"):
                _save_lora(loop, run, lora_facts(spec, loop.generator.recipe(), resolved.text))

        def conclude() -> _Result:
            evaluation = _written(loop, run, drawn, advance)
            if end.error is not None:
                raise end.error
            records = run.metrics()
            outcome = Outcome(
                steps=loop.done,
                skipped=sum(record.skipped for record in records),
                lora_step=monitoring.best_step or loop.done,
                stopped=end.stopped,
                interrupted=end.interrupted,
                seconds=sum(record.seconds for record in records),
                wall_seconds=time.perf_counter() - started,
                peak_memory=peak_memory(),
                peak_gpu_memory=peak_gpu_memory(),
            )
            run.write_outcome(outcome)
            trackers.finish(result_of(evaluation, outcome, ""), run.path)
            _present(loop, run)  # again, now with the outcome
            return run.path, evaluation, outcome, tuple(run.read_warnings())

        processes.decided(save)
        processes.from_first({name: value.cpu() for name, value in monitoring.kept.items()})
        advance = _counting(loop, progress)
        try:
            drawn = _drawn(loop, run, advance)
            result = processes.decided(conclude)
        except Exception as error:
            if end.error is None:
                raise
            raise end.error from error
        return _fit_result(loop, result)


_Result = tuple[Path, Evaluation, Outcome, tuple[str, ...]]
"""Run folder, evaluation, outcome and warnings: what the first process tells the others."""


def _fit_result(loop: Loop, result: _Result) -> FitResult:
    run, evaluation, outcome, notes = result
    return FitResult(run, evaluation, outcome, loop.generator, loop.spec, notes)


def _follow(loop: Loop) -> FitResult:
    """A fit in the processes after the first: they share its training steps, and write nothing.

    Each exchange has its counterpart in `fit` and `_train`; in `decided`, only the first process does anything.
    """
    processes = loop.processes
    for _ in ("run folder", "trackers"):
        with processes.agreed():
            pass
    checkpoint = processes.decided(_elsewhere)
    if checkpoint is not None:
        loop.restore(checkpoint.tensors, checkpoint.state)
    with _interruptible(None) as interrupted, suppress(NotFiniteError):  # which the first process raises
        for _ in loop.steps() if not processes.from_first(False) else ():
            over = processes.decided(_elsewhere)
            asked_to_end = any(processes.gather(interrupted()))
            with processes.agreed():  # on what the first process saves
                pass
            if over or asked_to_end:
                break
    processes.decided(_elsewhere)  # the LoRA is saved
    _take(loop, processes.from_first(dict[str, "Tensor"]()))  # the referee's best check
    draw(loop)
    return _fit_result(loop, processes.decided(_elsewhere))


def _take(loop: Loop, best: Mapping[str, Tensor]) -> None:
    """Set the LoRA to the best one, if one was kept; otherwise to the average of `train.ema`, if there is one."""
    if best:
        lora.restore(loop.generator.adapter_module, best)
    else:
        loop.average.take(loop.weights)


def _elsewhere() -> Any:
    """Stands for what only the first process makes."""


def _save_lora(loop: Loop, run: RunFolder, facts: Mapping[str, str]) -> None:
    """Write the LoRA with `facts` about it; with sliders, the centre last, because its file completes the run."""
    module, spec = loop.generator.adapter_module, loop.spec
    for adapter in reversed(lora.adapters(spec.sliders)):
        layers = lora.folded(module, spec.train.lora, adapter)
        save = functools.partial(loop.generator.save_lora, layers=layers)
        run.write_lora(save, lora.folder(adapter), facts=facts)


def finish(loop: Loop, run: RunFolder, progress: Progress | None = None) -> Evaluation:
    """Evaluate the generator on the held-out images, and write samples, numbers, model card and report.

    Raises RunError if another process is writing the run, DualprocError if a plugin raises anything.
    """
    advance = _counting(loop, progress)
    return _written(loop, run, _drawn(loop, run, advance), advance)


def _drawn(loop: Loop, run: RunFolder, advance: Callable[[int], None]) -> list[Pair]:
    """The held-out images, of which every process of the fit draws a share."""
    with _evaluating(loop, run):
        return draw(loop, advance)


def _written(loop: Loop, run: RunFolder, drawn: list[Pair], advance: Callable[[int], None]) -> Evaluation:
    """Measure these images, and write everything."""
    with run.writing(), _evaluating(loop, run):
        evaluation, images = evaluate(loop, advance, drawn=drawn)
        write_samples(
            run.samples,
            images.base,
            images.trained,
            prompts=[prompt.text for prompt in evaluation.prompts],
            seeds=evaluation.seeds,
            judge_view=images.judge_view if loop.spec.visual_prompt else None,
        )
        captions = {
            name: [f"{name} {number(place[name])}" for place in sliders.spread(loop.spec, name, len(strip))]
            for name, strip in images.strips.items()
        }
        write_strips(run.samples, images.strips, captions)
        # `dp score RUN --set` may have changed how it is evaluated.
        run.write(RESOLVED, portable(loop.spec, run.path).text)
        run.write_evaluation(evaluation)
        _present(loop, run)
        return evaluation


@contextmanager
def _evaluating(loop: Loop, run: RunFolder) -> Iterator[None]:
    """Within, warnings go to the report, and errors say how to continue."""
    again = command("dp", "score", run.path)
    remedy = f"the LoRA is saved: fix the cause, then continue with `resume=True`, or run `{again}`"
    with noting(loop.warnings), explained(loop, run, "during the evaluation", remedy):
        yield


def _counting(loop: Loop, progress: Progress | None) -> Callable[[int], None]:
    """A function that counts the images of an evaluation, of which other processes generate as many as this one."""
    done, total = 0, 2 * len(held_out(loop)[1]) + sliders.images(loop.spec)

    def advance(count: int) -> None:
        nonlocal done
        done = min(done + count * loop.processes.count, total)
        if progress is not None:
            progress.images(done, total)

    return advance


def _present(loop: Loop, run: RunFolder) -> None:
    """Write model card and report from what the run folder has, after adding the warnings so far to it."""
    run.add_warnings(loop.warnings)
    write_card(run, loop.generator.recipe())
    write_report(run)


class _End(NamedTuple):
    """How the training ended."""

    stopped: str | None = None
    """Why it ended before its last step; None if it did not."""
    interrupted: bool = False
    error: DualprocError | None = None
    """Raised after the LoRA so far has been saved."""


def _train(loop: Loop, run: RunFolder, monitoring: _Monitoring, trackers: Trackers, progress: Progress | None) -> _End:
    """Run the training steps, with checkpoints."""
    train, processes, asked_to_end = loop.spec.train, loop.processes, False
    before_first_check = train.watch.every - 1
    """A check takes more memory than a training step: if it fails, the steps before it must not be lost."""

    def save() -> None:
        if run.saved_step != loop.done:
            (tensors, state), (more_tensors, more_state) = loop.state(), monitoring.state()
            run.save_checkpoint(loop.done, tensors | more_tensors, state | more_state)

    def after(record: StepRecord) -> bool:
        """Measure and log a training step; whether the referee ends the training."""
        record = monitoring.measured(record)
        run.log(record)
        trackers.step(record)
        if progress is not None:
            progress.step(record, train.steps)
        return monitoring.over

    with _interruptible(progress) as interrupted, explained(loop, run, *_stage(loop, run)) as stage:
        try:
            for record in loop.steps() if not processes.from_first(monitoring.over) else ():
                over = processes.decided(functools.partial(after, record))
                asked_to_end = any(processes.gather(interrupted()))
                last = over or asked_to_end
                with processes.agreed():
                    first = loop.done == before_first_check and not run.saved_step
                    if last or first or loop.done == train.steps or loop.done % train.checkpoint_every == 0:
                        save()
                    if train.preview is not None and loop.done % train.preview.every == 0:
                        with loop.averaged():
                            write_preview(run.samples, loop.done, *preview(loop), loop.spec.preview_prompts())
                stage.doing, stage.remedy = _stage(loop, run)
                if last:
                    break
        except NotFiniteError as error:  # the skipped steps did not change the LoRA: save what it had learned
            save()
            message = f"{error.message}; the LoRA as it was before them is in {run.path}"
            return _End(error=DualprocError(message, hint=error.hint))
        if asked_to_end and loop.done < train.steps:
            return _End(f"interrupted after step {loop.done}", interrupted=True)
        if monitoring.over:
            best = monitoring.best_step
            return _End(f"stopped after step {loop.done}: no improvement by the referee since step {best}")
        return _End()


def _stage(loop: Loop, run: RunFolder) -> tuple[str, str]:
    """The next training step, and how to continue if it fails."""
    saved = run.saved_step
    resumed = f"resumes from step {saved}" if saved else "starts again, because there is no checkpoint yet"
    return f"in training step {loop.done + 1}", f"fix the cause; then `resume=True` {resumed}"


class _Monitoring:
    """Referee and hack meter during training; with the spec's `stop`, keeps the best LoRA and says when to end."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.stop = loop, loop.spec.train.stop
        self.best, self.best_step, self.checks_since = float("-inf"), 0, 0
        self.kept: dict[str, Tensor] = {}

    @property
    def over(self) -> bool:
        return self.stop is not None and self.checks_since >= self.stop.patience

    def measured(self, record: StepRecord) -> StepRecord:
        """The record, with referee and hack meter at monitored steps."""
        if record.step % self.loop.spec.train.watch.every:
            return record
        with self.loop.averaged():
            return self._checked(record)

    def _checked(self, record: StepRecord) -> StepRecord:
        score, hacked = monitor(self.loop)
        if self.stop is not None and score is not None:
            if math.isfinite(score) and score > self.best + self.stop.min_delta:
                adapter = lora.state(self.loop.generator.adapter_module)
                self.kept = {name: value.clone() for name, value in adapter.items()}
                self.best, self.best_step, self.checks_since = score, record.step, 0
            else:
                self.checks_since += 1
        return replace(record, referee=score, hack_meter=hacked)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Its part of a checkpoint."""
        best = self.best if self.kept else None  # JSON has no infinity
        tensors = {f"best/{name}": value for name, value in self.kept.items()}
        return tensors, {"best": best, "best_step": self.best_step, "looks_since": self.checks_since}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.kept = {name.removeprefix("best/"): v for name, v in tensors.items() if name.startswith("best/")}
        self.best = state["best"] if self.kept else self.best
        self.best_step, self.checks_since = state.get("best_step", 0), state.get("looks_since", 0)


@contextmanager
def _interruptible(progress: Progress | None) -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl+C or SIGTERM sets a flag and is confirmed; the second one ends the process as usual."""
    pressed = False
    before: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def handle(_signal: int, _frame: Any) -> None:
        nonlocal pressed
        pressed = True
        restore()
        if progress is not None:
            with suppress(RuntimeError):  # the signal arrived while something else was printed
                progress.ending()

    try:
        for number in _ENDING:
            before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread: no handler, and no Ctrl+C either
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        restore()
