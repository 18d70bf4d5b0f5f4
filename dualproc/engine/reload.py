"""Runs read back: the trained generator of a run, alone or with everything that evaluated it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc import resolve
from dualproc.errors import DualprocError
from dualproc.protocols import Generator
from dualproc.run import RunFolder, portable
from dualproc.run.files import as_run_error, make_folder
from dualproc.run.folder import RESOLVED, WEIGHTS
from dualproc.spec.sliders import complete

from . import lora, returned
from .engine import Engine
from .sliders import set_sliders

if TYPE_CHECKING:
    from torch import Tensor

    from dualproc.spec import TaskSpec


def open_run(path: str | PathLike[str], *, overrides: Sequence[str] = ()) -> tuple[RunFolder, TaskSpec]:
    """A finished run and its spec, of which `overrides` may change what `dualproc.run.resolved.MAY_CHANGE` allows.

    Raises RunError if the run is not finished, or if `overrides` change more; SpecError if the spec is not valid.
    """
    run = RunFolder.open(path, needs=[WEIGHTS])
    spec = resolve.load_spec(run.path / RESOLVED, variant=run.resolved.get("variant"), overrides=overrides)
    if overrides:
        run.refuse_changes(
            portable(spec).text,
            "the LoRA was trained with these values; only evaluation.*, device, checkpointing and offload may change",
        )
    return run, spec


def load_engine(path: str | PathLike[str], *, overrides: Sequence[str] = ()) -> tuple[RunFolder, Engine]:
    """A run's engine with its trained LoRA, to evaluate it again or to continue in Python. See `open_run`."""
    run, spec = open_run(path, overrides=overrides)
    engine = Engine(spec)
    _load(engine.generator, run, spec, strength=1.0)
    return run, engine


def load_generator(path: str | PathLike[str], *, strength: float = 1.0) -> Generator:
    """A run's generator with its LoRA at `strength` (1 as trained, 0 the base), and its sliders in the middle."""
    run, spec = open_run(path)
    generator: Generator = resolve.build("generators", spec.generator)
    names = lora.adapters(spec.sliders)
    lora.attach(generator.adapter_module, spec.train.lora, generator.lora_targets, seed=0, adapters=names)
    _load(generator, run, spec, strength=strength)
    return generator


def generate(generator: Generator, prompt: str, seeds: Sequence[int], *, batch: int) -> Tensor:
    """[B, 3, H, W] in [0, 1]: images of one prompt, one for each seed, `batch` of them drawn at a time."""
    import torch

    parts = [seeds[start : start + batch] for start in range(0, len(seeds), batch)]
    with torch.no_grad():
        return torch.cat([returned.sample(generator, [prompt] * len(part), part).images for part in parts])


def export(path: str | PathLike[str], values: Mapping[str, float], folder: Path) -> None:
    """Write a run's LoRA with its sliders at these values into `folder`, as one ordinary LoRA for weight 1.0.

    Sliders that are not named are in the middle. Raises DualprocError if a value is outside its slider's range.
    """
    _, spec = open_run(path)
    if not spec.sliders:
        raise DualprocError(f"{path} has no sliders", hint=f"its {WEIGHTS} is already an ordinary LoRA")
    weights = lora.weights_at(spec.sliders, complete(spec.sliders, values))
    generator = load_generator(path)
    make_folder(folder)
    with as_run_error("write", folder / WEIGHTS):
        generator.save_lora(folder, lora.combined(generator.adapter_module, spec.train.lora, weights))


def _load(generator: Generator, run: RunFolder, spec: TaskSpec, *, strength: float) -> None:
    """Set the attached LoRA to a run's."""
    for adapter in lora.adapters(spec.sliders):
        file = run.path / lora.folder(adapter) / WEIGHTS
        lora.load_export(generator.adapter_module, spec.train.lora, file, adapter=adapter)
    set_sliders(generator, spec, {}, strength=strength)
