"""`train.trackers`: what a fit logs, also in TensorBoard, Weights & Biases, Trackio or MLflow, through Accelerate.

A tracker that fails during a fit is warned of once, and not used any more; it never ends the fit.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dualproc.errors import DualprocError, DualprocWarning
from dualproc.kit.image_files import load_image
from dualproc.report.bench import Result
from dualproc.run.folder import SAMPLES, TENSORBOARD
from dualproc.run.images import GRID
from dualproc.run.resolved import leaves, plain
from dualproc.spec import TaskSpec
from dualproc.types import StepRecord

_PACKAGES: Mapping[str, Sequence[str]] = {"tensorboard": ("tensorboard", "tensorboardX")}
"""What a tracker needs, if not a package of its name; one of them is enough."""


def check(names: Sequence[str]) -> None:
    """Raise DualprocError if the package of a tracker is not installed."""
    for name in names:
        if not any(importlib.util.find_spec(package) for package in _PACKAGES.get(name, (name,))):
            hint = f"pip install {name}, or remove it from `train.trackers`"
            raise DualprocError(f"train.trackers: {name} is not installed", hint=hint)


class Trackers:
    """The trackers of one fit."""

    def __init__(self, spec: TaskSpec, folder: Path, resolved_text: str) -> None:
        """Start all that the spec names, with the resolved spec as their configuration.

        Raises DualprocError if one is not installed or does not start.
        """
        self._live: dict[str, Any] = {}
        check(spec.train.trackers)
        for name in spec.train.trackers:
            try:
                self._live[name] = _started(name, spec, folder, resolved_text)
            except Exception as error:  # third-party code: no network, not logged in, a full disk
                hint = "set it up, or remove it from `train.trackers`"
                raise DualprocError(f"train.trackers: {name} does not start: {_cause(error)}", hint=hint) from error

    def step(self, record: StepRecord) -> None:
        """Log the numbers of a training step."""
        values = dataclasses.asdict(record)
        step = values.pop("step")
        self._each(lambda _, tracker: tracker.log(_finite(values), step=step))

    def finish(self, result: Result, folder: Path) -> None:
        """Log the evaluation and the grid of base and trained images, and close the trackers."""
        steps = result.outcome.steps
        numbers = {"on_target": result.on_target, "judge": result.judge.after, "referee": result.referee.after}
        numbers |= {"kept": result.kept.after, "diversity": result.diversity.after}
        numbers["hack_meter"] = result.hack_meter.after
        shown = {f"evaluation/{name}": value for name, value in numbers.items()}
        self._each(lambda _, tracker: tracker.log(_finite(shown), step=steps))
        grid = folder / SAMPLES / GRID
        if grid.exists():
            self._each(lambda name, tracker: _log_image(name, tracker, grid, steps))
        self.close()

    def close(self) -> None:
        """Close what is still open."""
        self._each(lambda _, tracker: tracker.finish())
        self._live.clear()

    def _each(self, log: Callable[[str, Any], object]) -> None:
        for name, tracker in list(self._live.items()):
            try:
                log(name, tracker)
            except Exception as error:
                del self._live[name]
                message = f"{name} failed, and is not used any more in this fit: {_cause(error)}"
                warnings.warn(message, DualprocWarning, stacklevel=3)


def _started(name: str, spec: TaskSpec, folder: Path, resolved_text: str) -> Any:
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # the trackers' messages need it
    kind = LOGGER_TYPE_TO_CLASS[name]
    label = spec.label.replace("/", "-")
    more: dict[str, Any] = {"wandb": {"name": label}, "trackio": {"name": label}, "mlflow": {"run_name": label}}
    tracker = kind(TENSORBOARD, folder) if name == "tensorboard" else kind(spec.name, **more[name])
    tracker.start()
    settings = dict(leaves(plain(resolved_text, "the resolved spec")))
    plain_types = (bool, int, float, str)
    tracker.store_init_configuration({k: v if isinstance(v, plain_types) else str(v) for k, v in settings.items()})
    return tracker


def _log_image(name: str, tracker: Any, grid: Path, step: int) -> None:
    """Each tracker takes images in its own way."""
    import numpy

    title = "base above trained"
    if name == "mlflow":
        tracker.log_artifact(str(grid))
    elif name == "trackio":
        import trackio

        tracker.log({title: trackio.Image(str(grid))}, step=step)
    else:
        pixels = numpy.asarray(load_image(grid).convert("RGB"))[None]
        tracker.log_images({title: pixels}, step=step, **({"dataformats": "NHWC"} if name == "tensorboard" else {}))


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    """The values that were measured, as numbers."""
    return {name: float(value) for name, value in values.items() if value is not None and math.isfinite(value)}


def _cause(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
