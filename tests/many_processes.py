"""Fits that several processes share, for test_many_processes.py, and `fork`, which starts the processes.

Each process runs one scenario after the other, and writes what came out to `OUT/SCENARIO.RANK.json`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from stub_plugins import BrightnessJudge, stubs

from dualproc import Engine, TaskSpec
from dualproc.engine.distributed import processes
from dualproc.engine.seeds import held_out_seeds
from dualproc.errors import DualprocError
from dualproc.spec import spec_from_dict

STEPS = 20


def make_spec(**train: Any) -> TaskSpec:
    """A task for the stub models, with all that draws random numbers: jitter, an anchor with noise, several prompts."""
    return spec_from_dict(
        {
            "name": "shared",
            "prompts": {"train": ["a cat", "a dog", "a tree"], "eval": ["an owl"]},
            "question": {"template": "Is it bright?"},
            "visual_prompt": {
                "jitter": {"y": [-0.3, 0.3]},
                "layers": [{"type": "line", "from": [0, 0.5], "to": [1, 0.5], "width": 0.2, "color": "black"}],
            },
            "referee": {"type": "tiny-referee"},
            "anchor": {"type": "base_denoise"},
            "train": {"steps": STEPS, "batch": 5, "lr": 0.01, "lora": {"rank": 2}, "watch": {"every": 10}, **train},
            "evaluation": {"seeds": 3},
        }
    )


def engine(spec: TaskSpec, **others: Any) -> Engine:
    """An engine with stub models, which knows the other processes."""
    made = Engine(spec, build=stubs(**others))
    made.processes = processes()
    return made


class Failing(BrightnessJudge):
    """A judge that fails in the third training step."""

    calls = 0

    def answer_log_likelihoods(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise ValueError("the judge broke")
        return super().answer_log_likelihoods(*given)


class Signalling(BrightnessJudge):
    """A judge that sends a signal to its process in the third training step."""

    calls, number = 0, signal.SIGTERM

    def answer_log_likelihoods(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == 3:
            os.kill(os.getpid(), self.number)
        return super().answer_log_likelihoods(*given)


class Killed(Signalling):
    """One that is killed."""

    number = signal.SIGKILL


class Filling(BrightnessJudge):
    """A judge that fills the disk of the run folder in the seventh training step."""

    calls = 0

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def answer_log_likelihoods(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == 7:
            with suppress(OSError), open(self.folder / FILLER, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return super().answer_log_likelihoods(*given)


FILLER = "filler"


def filling(out: Path) -> Any:
    """The disk of the run folder becomes full; the first process alone writes to it."""
    judges = Filling(out.parent) if processes().first else BrightnessJudge()
    return engine(make_spec(checkpoint_every=3), judges=judges).fit(out).outcome.steps


def resuming(out: Path) -> Any:
    return engine(make_spec(checkpoint_every=3)).fit(out, resume=True).outcome.steps


def whole(out: Path) -> Any:
    return engine(make_spec()).fit(out).outcome.steps


OPTIONS: dict[str, Any] = {
    "ema": 0.9,
    "stratified": True,
    "antithetic": True,
    "views": {"count": 2, "noise": 0.05},
    "worst_case": {"images": 0.02, "weights": 0.2},
}


def options(out: Path) -> Any:
    """Every option of a training step."""
    return engine(make_spec(**OPTIONS)).fit(out).evaluation.trained.judge


def resumed(out: Path) -> Any:
    """The run that one process left after half of the steps; now in parts, too."""
    return engine(make_spec(accumulate=2)).fit(out, resume=True).outcome.steps


def interrupted(out: Path) -> Any:
    """SIGTERM reaches the second process only."""
    judges = Signalling() if processes().rank == 1 else BrightnessJudge()
    result = engine(make_spec(), judges=judges).fit(out)
    return [result.outcome.steps, result.outcome.interrupted]


def failing(out: Path) -> Any:
    judges = Failing() if processes().rank == 1 else BrightnessJudge()
    return engine(make_spec(), judges=judges).fit(out).outcome.steps


def full(out: Path) -> Any:
    """The first process cannot write the run folder."""
    out.touch()
    return engine(make_spec()).fit(out).outcome.steps


def sharing(out: Path) -> Any:
    """The held-out images that this process draws; the LoRA is the one of the referee's best check."""
    made, counted = engine(make_spec(stop={"patience": 9})), [0]
    sample, held_out = made.generator.sample, set(held_out_seeds(3))

    def counting(prompts: Sequence[str], seeds: Sequence[int], **how: bool) -> Any:
        counted[0] += len(held_out.intersection(seeds))
        return sample(prompts, seeds, **how)

    made.generator.sample = counting  # type: ignore[method-assign]
    made.fit(out)
    return counted[0]


def too_many(out: Path) -> Any:
    return engine(make_spec(batch=1)).fit(out).outcome.steps


def dying(out: Path) -> Any:
    judges = Killed() if processes().rank == 1 else BrightnessJudge()
    return engine(make_spec(checkpoint_every=1), judges=judges).fit(out).outcome.steps


SCENARIOS: tuple[Callable[[Path], Any], ...] = (
    whole, options, resumed, interrupted, sharing, failing, full, too_many, dying,
)  # fmt: skip
"""In this order; the last one leaves a process alone."""


def main(out: Path, scenarios: Sequence[Callable[[Path], Any]] = SCENARIOS, run: Path | None = None) -> None:
    """Run the scenarios; each has a run folder of its own, or all have `run`."""
    for scenario in scenarios:
        try:
            found = {"result": scenario(run or out / scenario.__name__)}
        except DualprocError as error:
            found = {"error": error.message, "hint": error.hint}
        except ValueError as error:
            found = {"raised": str(error)}
        (out / f"{scenario.__name__}.{processes().rank}.json").write_text(json.dumps(found))


def fork(count: int, task: Callable[[], object], out: Path) -> list[int]:
    """Run a task in `count` processes with the environment that `torchrun` gives them; their exit codes.

    What they print goes to `OUT/RANK.out` and `OUT/RANK.err`. Forks, because importing the libraries takes long.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    children = []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            os.environ |= {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
            _run(task, out / str(rank))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _run(task: Callable[[], object], log: Path) -> NoReturn:
    """The life of a forked process."""
    code = 1
    try:
        sys.stdout, sys.stderr = open(f"{log}.out", "w"), open(f"{log}.err", "w")  # noqa: SIM115
        files = sys.stdout, sys.stderr
        for file, descriptor in zip(files, (1, 2), strict=True):
            os.dup2(file.fileno(), descriptor)
        processes.cache_clear()
        try:
            task()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        for file in files:
            file.flush()
    except BaseException:
        traceback.print_exc(file=files[1])
        files[1].flush()
    finally:
        os._exit(code)
