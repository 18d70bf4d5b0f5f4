"""The values of sliders: those that training draws, and the grids of evaluation, monitoring and strips."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dualproc.protocols import Generator
from dualproc.spec import TaskSpec
from dualproc.spec.sliders import complete

from . import lora

if TYPE_CHECKING:
    from .loop import Loop

STRATA = 8
"""This many training steps in a row draw one value from each part of the range, in random order."""
GRID = 11
"""The evaluation draws held-out images at this many values, evenly from end to end.

It is a prime number, so that several sliders are combined differently (see `grid`)."""
STRIP = 7
"""Values of a strip of images."""


def set_sliders(generator: Generator, spec: TaskSpec, values: Mapping[str, float], *, strength: float = 1.0) -> None:
    """Set the LoRA of a generator to values of the spec's sliders; those that are not named are in the middle.

    Raises DualprocError if a value is outside its slider's range.
    """
    weights = lora.weights_at(spec.sliders, complete(spec.sliders, values))
    scaled = {adapter: weight * strength for adapter, weight in weights.items()}
    lora.set_weights(generator.adapter_module, spec.train.lora, scaled)


def drawn(spec: TaskSpec, step: int, rng: random.Random) -> dict[str, float]:
    """A value of every slider for one training step; without sliders, nothing is drawn."""
    values = {}
    for name, slider in spec.sliders.items():
        order = random.Random(f"{spec.train.seed}/{step // STRATA}/{name}").sample(range(STRATA), STRATA)
        values[name] = slider.value((order[step % STRATA] + rng.random()) / STRATA * 2 - 1)
    return values


def images(spec: TaskSpec) -> int:
    """How many images the strips have."""
    return STRIP * len(spec.sliders)


def spread(spec: TaskSpec, name: str, count: int) -> list[dict[str, float]]:
    """`count` values of one slider, evenly from end to end; the others in the middle."""
    return [{name: spec.sliders[name].value(2 * i / max(1, count - 1) - 1)} for i in range(count)]


def grid(spec: TaskSpec, count: int) -> list[dict[str, float]]:
    """The values of every slider for each of `count` held-out images; empty mappings without sliders.

    Image i has value i modulo GRID of the first slider: with GRID seeds per prompt, each prompt has every value once.
    """
    columns = {}
    for factor, (name, slider) in enumerate(spec.sliders.items(), start=1):
        turns = [(i * factor + i // GRID * (factor - 1)) % GRID for i in range(count)]
        columns[name] = [slider.value(2 * turn / (GRID - 1) - 1) for turn in turns]
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def groups(loop: Loop, places: Sequence[Mapping[str, float]]) -> Iterator[tuple[Loop, list[int]]]:
    """The loop at each of the values in `places` (one per image), with the indices of the images there.

    Use each before the next: they share the LoRA. Without sliders, it is the loop itself with all images.
    """
    members: dict[tuple[float, ...], list[int]] = {}
    for index, values in enumerate(places):
        members.setdefault(tuple(values.values()), []).append(index)
    for indices in members.values():
        yield loop.at(places[indices[0]]), indices
    loop.at({})
