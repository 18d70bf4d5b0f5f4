"""Runs read back: the trained generator of a run, alone or with everything that evaluated it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from dualproc import resolve
from dualproc.errors import DualprocError, RunError
from dualproc.protocols import Generator
from dualproc.report import lora_facts
from dualproc.run import RunFolder, opened, portable
from dualproc.run.folder import RESOLVED, WEIGHTS
from dualproc.run.lora_file import write_lora
from dualproc.run.resolved import differing_keys
from dualproc.spec.sliders import complete

from . import lora, lora_files, returned
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
    kept = resolve.load_spec(run.path / RESOLVED, variant=run.resolved.get("variant"), overrides=overrides)
    spec = opened(kept, run.path)
    if overrides:
        run.refuse_changes(
            portable(spec, run.path).text,
            "the LoRA was trained with these values; only evaluation.*, device, checkpointing and offload may change",
        )
    return run, spec


def load_engine(path: str | PathLike[str], *, overrides: Sequence[str] = ()) -> tuple[RunFolder, Engine]:
    """A run's engine with its trained LoRA, to evaluate it again or to continue in Python. See `open_run`."""
    run, spec = open_run(path, overrides=overrides)
    engine = Engine(spec)
    _load(engine.generator, run, spec, strength=1.0)
    return run, engine


def slider_values(specs: Sequence[TaskSpec], values: Mapping[str, float]) -> list[dict[str, float]]:
    """The values of each spec's sliders: those in `values` that it has, and its others in the middle.

    Raises DualprocError if a value is outside its slider's range, or if no spec has a slider of that name.
    """
    sliders = {name: slider for spec in specs for name, slider in spec.sliders.items()}
    unknown = {name: value for name, value in values.items() if name not in sliders}
    complete(sliders, unknown)
    return [
        complete(spec.sliders, {name: value for name, value in values.items() if name in spec.sliders})
        for spec in specs
    ]


SetLora = Callable[[Mapping[str, float], Sequence[float]], None]
"""Sets the LoRAs of runs to values of their sliders, and each to a strength (1 as trained, 0 the base)."""


def load_several(paths: Sequence[str | PathLike[str]]) -> tuple[Generator, SetLora]:
    """The generator of one or several runs, with all their LoRAs at once, and how to set these.

    At first, the strengths are 1 and all sliders in the middle. Raises RunError if the runs have different generators.
    """
    runs, specs = zip(*map(open_run, paths), strict=True)
    for run, spec in zip(runs[1:], specs[1:], strict=True):
        if keys := _differing_generators(specs[0], spec):
            message = f"{run.path} has another generator than {runs[0].path}; different: {', '.join(keys)}"
            raise RunError(message, hint="only LoRAs of the same generator can be used together")
    if len(runs) == 1:
        generator = load_generator(paths[0])
        return generator, lambda values, strengths: set_sliders(generator, specs[0], values, strength=strengths[0])
    generator = resolve.build("generators", specs[0].generator)
    names = [lora.adapters(spec.sliders) for spec in specs]
    files = [run.path / lora.folder(name) / WEIGHTS for run, its in zip(runs, names, strict=True) for name in its]
    both = lora_files.LoraSum(generator.adapter_module, files)

    def set_lora(values: Mapping[str, float], strengths: Sequence[float]) -> None:
        weights = []
        for spec, place, strength in zip(specs, slider_values(specs, values), strengths, strict=True):
            weights += [strength * weight for weight in lora.weights_at(spec.sliders, place).values()]
        both.set(weights)

    set_lora({}, [1.0] * len(runs))
    return generator, set_lora


def _differing_generators(one: TaskSpec, other: TaskSpec) -> list[str]:
    """The keys in which the generators of two specs differ, without those that only concern where it is trained."""
    keys = differing_keys({"generator": one.generator.model_dump()}, {"generator": other.generator.model_dump()})
    return [key for key in keys if key != "generator.lora_targets"]


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
    run, spec = open_run(path)
    if not spec.sliders:
        raise DualprocError(f"{path} has no sliders", hint=f"its {WEIGHTS} is already an ordinary LoRA")
    weights = lora.weights_at(spec.sliders, complete(spec.sliders, values))
    generator = load_generator(path)
    layers = lora.combined(generator.adapter_module, spec.train.lora, weights)
    at = ", ".join(f"{name}={value:g}" for name, value in complete(spec.sliders, values).items())
    ranks = spec.train.lora.rank * len(weights)
    facts = lora_facts(spec, generator.recipe(), run.resolved_text, rank=ranks) | {"dualproc.at": at}
    write_lora(folder, functools.partial(generator.save_lora, layers=layers), facts)


def _load(generator: Generator, run: RunFolder, spec: TaskSpec, *, strength: float) -> None:
    """Set the attached LoRA to a run's."""
    for adapter in lora.adapters(spec.sliders):
        file = run.path / lora.folder(adapter) / WEIGHTS
        lora.load_export(generator.adapter_module, spec.train.lora, file, adapter=adapter)
    set_sliders(generator, spec, {}, strength=strength)
