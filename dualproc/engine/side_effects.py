"""The side effects of many LoRAs: what every scorer measures on the images of every run of a bench."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualproc import resolve
from dualproc.errors import DamageError, DualprocError
from dualproc.kit.image_files import batches
from dualproc.report.numeric import change_beyond, standardised_change
from dualproc.report.side_effects import Effect
from dualproc.run import RunFolder
from dualproc.run.images import BASE, TRAINED, image_names
from dualproc.spec import PluginRef, TaskSpec
from dualproc.types import ScoreContext

from . import returned
from .evaluators import quantity


def scorers_of(specs: Sequence[TaskSpec]) -> dict[str, PluginRef]:
    """Every scorer of these specs and their side effects once, by a label; other targets do not make another scorer."""
    found: dict[str, tuple[PluginRef, str | None]] = {}
    for spec in specs:
        for ref in (*spec.scorers, *spec.evaluation.side_effects):
            found.setdefault(quantity(ref), (ref, spec.variant))
    labels = [ref.label for ref, _ in found.values()]
    return {
        ref.label if labels.count(ref.label) == 1 or not variant else f"{ref.label} ({variant})": ref
        for ref, variant in found.values()
    }


def changes(folder: Path, scorers: Mapping[str, PluginRef]) -> dict[str, Effect]:
    """By label: the change of a run's mean, from base to trained images, in standard deviations of the base images.

    nan where a scorer cannot measure these images. Raises DamageError if images of the run are missing or damaged.
    """
    run, unknown = RunFolder.open(folder), Effect(math.nan, math.nan)
    evaluation = run.read_evaluation()
    if evaluation is None:
        return dict.fromkeys(scorers, unknown)
    both = (evaluation.base.scores, evaluation.trained.scores)
    task = [scores[0].values if scores else [math.nan] * len(evaluation.seeds) for scores in both]
    names = image_names([prompt.text for prompt in evaluation.prompts], evaluation.seeds)
    context = ScoreContext(prompts=evaluation.prompts, seeds=evaluation.seeds)
    sides = [_read(run.samples / side, names) for side in (BASE, TRAINED)]
    found = {}
    for label, ref in scorers.items():
        try:
            scorer = resolve.build("scorers", ref)
            before, after = (returned.values(scorer, images, context) for images in sides)
            found[label] = Effect(standardised_change(before, after), change_beyond(before, after, *task))
        except DualprocError:  # such as a prompt without the field that the scorer reads
            found[label] = unknown
    return found


def _read(folder: Path, names: Sequence[str]) -> Any:
    """The images [B, 3, H, W] of a run, which have one size."""
    try:
        (images,) = batches([folder / name for name in names], len(names))
    except ValueError as error:
        raise DamageError(f"the images in {folder} have different sizes") from error
    return images
