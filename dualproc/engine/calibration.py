"""Measurements at several values of sliders as one, and how near the measured values are to those asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dualproc.report.numeric import mean, spread
from dualproc.report.summary import kept
from dualproc.spec import TaskSpec
from dualproc.types import Calibration, CalibrationPoint, Measurement, Score

Part = tuple[Sequence[int], Measurement]
"""The images at one value of every slider: their indices in the evaluation, and what was measured on them."""


def merged(parts: Sequence[Part], spec: TaskSpec, places: Sequence[Mapping[str, float]]) -> Measurement:
    """The measurements of all parts as one, in the order of the evaluation, with a calibration for every slider.

    `places` has the sliders' values for each image. Diversity compares images of one prompt at the same values, and is
    the mean over the parts that have two of them.
    """
    if len(parts) == 1:
        return parts[0][1]
    measured = [part for _, part in parts]
    order = sorted(range(len(places)), key=[index for indices, _ in parts for index in indices].__getitem__)

    def in_order(values: Sequence[Sequence[float] | None]) -> tuple[float, ...] | None:
        joined = [value for some in values for value in some or ()]
        return tuple(joined[index] for index in order) if joined else None

    def scores(each: Sequence[tuple[Score, ...]]) -> tuple[Score, ...]:
        alike = [list(same) for same in zip(*each, strict=True)]
        return tuple(_merged_score(same, in_order([one.values for one in same]) or ()) for same in alike)

    whole = Measurement(
        scores=scores([part.scores for part in measured]),
        judge=in_order([part.judge for part in measured]) or (),
        referee=in_order([part.referee for part in measured]),
        preserved=in_order([part.preserved for part in measured]),
        hack_meter=sum(part.hack_meter * len(part.judge) for part in measured) / len(places),
        diversity=mean([part.diversity for part in measured]),
        color_diversity=mean([part.color_diversity for part in measured]),
        side_effects=scores([part.side_effects for part in measured]),
        alike_diversity=mean([part.alike_diversity for part in measured]),
    )
    found = (_calibration(name, parts, spec, places, whole) for name in spec.sliders)
    return replace(whole, calibration=tuple(one for one in found if one is not None))


def _merged_score(scores: Sequence[Score], values: tuple[float, ...]) -> Score:
    """One scorer's values at all places; target and accepted range only if they are the same everywhere."""
    first, hits = scores[0], [(score.on_target, len(score.values)) for score in scores]
    known = any(share is not None for share, _ in hits)
    return replace(
        first,
        values=values,
        target=first.target if len({score.target for score in scores}) == 1 else None,
        accepted=first.accepted if len({score.accepted for score in scores}) == 1 else None,
        on_target=sum((share or 0) * count for share, count in hits) / len(values) if known else None,
    )


def _calibration(
    name: str, parts: Sequence[Part], spec: TaskSpec, places: Sequence[Mapping[str, float]], whole: Measurement
) -> Calibration | None:
    """By the first scorer whose `target` is the slider's value; None if there is none."""
    targets = [ref.params.get("target") for ref in spec.scorers]
    if f"{{{name}}}" not in targets:
        return None
    index = targets.index(f"{{{name}}}")
    score = whole.scores[index]
    asked = [values[name] for values in places]
    errors = [abs(value - wanted) for value, wanted in zip(score.values, asked, strict=True)]
    finite = [i for i, error in enumerate(errors) if math.isfinite(error)]
    return Calibration(
        slider=name,
        scorer=score.name,
        unit=score.unit,
        error=mean(errors),
        spread=spread(errors),
        spearman=spearman([asked[i] for i in finite], [score.values[i] for i in finite]),
        points=tuple(
            _point(value, index, [part for part in parts if places[part[0][0]][name] == value])
            for value in sorted(set(asked))
        ),
        effects=effects(spec, [places[i] for i in finite], [score.values[i] for i in finite]),
    )


def effects(spec: TaskSpec, places: Sequence[Mapping[str, float]], values: Sequence[float]) -> dict[str, float]:
    """By how much each slider, from end to end, moves values measured at `places`; nan if there are too few.

    A linear least-squares fit on the positions of all sliders.
    """
    import numpy as np

    rows = [[1.0, *(slider.position(at[name]) for name, slider in spec.sliders.items())] for at in places]
    if not rows or np.linalg.matrix_rank(rows) <= len(spec.sliders):
        return dict.fromkeys(spec.sliders, math.nan)
    slopes = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0][1:]
    return {name: 2 * float(slope) for name, slope in zip(spec.sliders, slopes, strict=True)}


def _point(asked: float, scorer: int, parts: Sequence[Part]) -> CalibrationPoint:
    scores = [part.scores[scorer] for _, part in parts]
    values = [value for score in scores for value in score.values]
    weights = [len(indices) / len(values) for indices, _ in parts]
    return CalibrationPoint(
        asked=asked,
        measured=mean(values),
        spread=spread(values),
        error=mean([abs(value - asked) for value in values]),
        on_target=_merged_score(scores, tuple(values)).on_target,
        kept=sum(weight * kept(part) for weight, (_, part) in zip(weights, parts, strict=True)),
        diversity=mean([part.diversity for _, part in parts]),
    )


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation of finite numbers; nan if one of the two is constant."""
    if min(len(set(first)), len(set(second)), len(first)) < 2:
        return math.nan
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)
