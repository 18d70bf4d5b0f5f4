"""An evaluation in rows and sentences: the one source of the numbers in report, model card and terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dualproc.run import Outcome
from dualproc.types import Calibration, Evaluation, Measurement, Score, StepRecord
from dualproc.wording import NOT_MEASURED, number, percent, plural, times

from .numeric import mean, mean_and_spread, measured, ratio, standardised_change, unmeasured

PRESERVED_ABOVE = 0.5
"""An image's subject counts as kept if the referee's P(wanted answer) to the `preserve` question is above this."""
GAP_LIMIT = 0.1
"""Warn if the judge's mean P(wanted answer) exceeds the independent measurement by more than this."""
CONFIDENT = 0.5
"""No such warning if the judge's mean P(wanted answer) is below this."""
MOST = 0.8
"""A result is good if at least this share of the images is on target, and `LITTLE` more than of the base images."""
LITTLE = 0.1
"""Warn about little effect if the measurement rises by less than this and stays below one half."""
HACK_LIMIT = 1.5
"""Hack meter, as a multiple of the base's: healthy fits stay below this, hacked ones end at 3 to 7."""
DIVERSITY_LIMIT = 0.5
"""Warn if less than this share of the base's diversity is left."""
LISTED_EFFECTS = 3
"""The number of side effects in the table, the largest first."""
EFFECT_LIMIT = 1.0
"""Warn of side effects larger than this, in standard deviations of the base images."""
LOST_LIMIT = 0.1
"""Warn if more than this share of the subjects is lost."""

MEASURED_LIMIT = 0.5
"""Warn if a scorer measured less than this share of the base images, or of the trained ones."""

KEPT = "subjects kept"
HACK_METER = "hack meter"
JUDGE = "judge's P(wanted answer)"
REFEREE = "referee's P(wanted answer)"
HOW_KEPT = f"share of images with the referee's P above {PRESERVED_ABOVE}"
NO_PROOF = "No independent measurement: only the judge, which trained the LoRA, was asked. Add a scorer or a referee."


class Verdict(NamedTuple):
    """Whether the fit reached its target, by the most independent measurement there is."""

    level: str
    """`good`, `partial` or `poor`; empty if nothing independent was measured."""
    sentence: str


class Row(NamedTuple):
    """One line of the table of results."""

    label: str
    before: str
    """The base generator's number."""
    after: str
    """The trained generator's number."""
    note: str
    """Target, unit, or how to read it; may be empty."""


class SideEffect(NamedTuple):
    """The change of something that the task does not ask for."""

    label: str
    before: float
    """The base generator's mean."""
    after: float
    """The trained generator's mean."""
    change: float
    """The change of the mean in standard deviations of the base images."""


def summary_rows(evaluation: Evaluation) -> list[Row]:
    """The table of results: scorers, judge, referee, subjects kept, hack meter, diversity, largest side effects."""
    base, trained = evaluation.base, evaluation.trained
    rows = [row for pair in zip(base.calibration, trained.calibration, strict=True) for row in _slider_rows(*pair)]
    rows += [row for pair in zip(base.scores, trained.scores, strict=True) for row in _score_rows(*pair)]
    for label, before, after, note in (
        (JUDGE, base.judge, trained.judge, "it trained the LoRA, so it proves nothing"),
        (REFEREE, base.referee, trained.referee, "it took no part in training"),
    ):
        if before is not None and after is not None:
            rows.append(Row(label, mean_and_spread(before), mean_and_spread(after), note))
    if trained.preserved is not None:
        rows.append(Row(KEPT, percent(kept(base)), percent(kept(trained)), HOW_KEPT))
    for label, left, right in (
        (HACK_METER, base.hack_meter, trained.hack_meter),
        ("diversity", base.diversity, trained.diversity),
        ("diversity beyond the task", base.alike_diversity, trained.diversity),
        ("colour diversity", base.color_diversity, trained.color_diversity),
    ):
        if label not in (HACK_METER, "diversity") and math.isnan(left):
            continue  # a run of an earlier version, or too few images
        change = ratio(right, left)
        note = f"{times(change)} the base's" if math.isfinite(change) else ""
        if evaluation.asked and math.isnan(left) and label != HACK_METER:
            note = "needs two images of a prompt at the same values: more `evaluation.seeds`"
        rows.append(Row(label, number(left), number(right), note))
    for effect in side_effects(evaluation)[:LISTED_EFFECTS]:
        note = f"{effect.change:+.1f} standard deviations of the base images"
        rows.append(Row(f"side effect: {effect.label}", number(effect.before), number(effect.after), note))
    return rows


def side_effects(evaluation: Evaluation) -> list[SideEffect]:
    """What changed though the task does not ask for it, the largest change first; unmeasured ones are left out."""
    found = [
        SideEffect(
            title(after), mean(before.values), mean(after.values), standardised_change(before.values, after.values)
        )
        for before, after in zip(evaluation.base.side_effects, evaluation.trained.side_effects, strict=True)
    ]
    return sorted((each for each in found if math.isfinite(each.change)), key=lambda each: -abs(each.change))


def image_rows(measurement: Measurement) -> list[tuple[str, str, str, str]]:
    """The table for images of any origin: what was measured, its mean, the share on target, how to read it."""
    rows = []
    for score in measurement.scores:
        blind = unmeasured(score.values)
        notes = (_aim(score, unit=True), within(score), f"{blind} {NOT_MEASURED}" if blind else "")
        shown = "" if score.accepted is None else percent_on_target(score)
        rows.append((title(score), mean_and_spread(score.values), shown, ", ".join(filter(None, notes))))
    rows.append((JUDGE, mean_and_spread(measurement.judge), "", "it trains LoRAs for this task, so it proves nothing"))
    if measurement.referee is not None:
        rows.append((REFEREE, mean_and_spread(measurement.referee), "", "it takes no part in training"))
    if measurement.preserved is not None:
        rows.append((KEPT, percent(kept(measurement)), "", HOW_KEPT))
    return rows


def image_columns(measurement: Measurement) -> list[tuple[str, tuple[float, ...]]]:
    """What was measured on each image: unique headings, and values."""
    columns: list[tuple[str, tuple[float, ...]]] = []
    for score in measurement.scores:
        same = sum(other.name == score.name for other in measurement.scores[: len(columns)])
        columns.append((score.name + (f"_{same + 1}" if same else ""), score.values))
    rest = (("judge", measurement.judge), ("referee", measurement.referee), ("subject_kept", measurement.preserved))
    return columns + [(name, values) for name, values in rest if values is not None]


def headline(evaluation: Evaluation) -> str:
    """The result in one line: the independent measurement first, then the side effects."""
    base, trained = evaluation.base, evaluation.trained
    parts = [outcome(evaluation), *filter(None, [change_of_value(evaluation)])]
    if base.preserved is not None and trained.preserved is not None:
        parts.append(f"{KEPT} {percent(kept(base))} -> {percent(kept(trained))}")
    change = ratio(trained.hack_meter, base.hack_meter)
    if math.isfinite(change):
        parts.append(f"{HACK_METER} {times(change)} the base's")
    return "; ".join(parts)


def outcome(evaluation: Evaluation) -> str:
    """The share of images on target, compared with the base's; else the most independent measurement there is."""
    base, trained = evaluation.base, evaluation.trained
    if _has_target(trained):
        images = plural(len(evaluation.seeds), "held-out image")
        before, after = base.scores[0], trained.scores[0]
        return f"{percent_on_target(after)} of {images} on target (base: {percent_on_target(before)})"
    blind = ""
    if trained.calibration and math.isfinite(trained.calibration[0].error):
        was, now = base.calibration[0], trained.calibration[0]
        errors = f"mean error {number(was.error)} -> {number(now.error)}"
        by = f"Slider {now.slider}, measured by {now.scorer.replace('_', ' ')}"
        return f"{by}: {errors}, rank correlation {number(now.spearman)}"
    if trained.scores:
        before, after = base.scores[0], trained.scores[0]
        if measured(after.values):
            return f"Measured {_value(before, after)}"
        blind = f"{title(after).capitalize()}: {NOT_MEASURED}. "
    if base.referee is not None and trained.referee is not None:
        return f"{blind}The {REFEREE}: {number(mean(base.referee))} -> {number(mean(trained.referee))}"
    change = f"{number(mean(base.judge))} -> {number(mean(trained.judge))}"
    return f"{blind}The {JUDGE}: {change} (not an independent measurement)"


def change_of_value(evaluation: Evaluation) -> str:
    """The first scorer's mean value, if its share on target is the outcome: `line weight: 0.03 -> 0.04`."""
    if not _has_target(evaluation.trained):
        return ""
    before, after = evaluation.base.scores[0], evaluation.trained.scores[0]
    blind = unmeasured(after.values)
    return _value(before, after) + (f", {blind} {NOT_MEASURED}" if blind else "")


def _value(before: Score, after: Score) -> str:
    note = f" ({_aim(after)})" if _aim(after) else ""
    start = number(mean(before.values)) if measured(before.values) else NOT_MEASURED
    return f"{title(after)}: {start} -> {number(mean(after.values))}{note}"


def verdict(evaluation: Evaluation) -> Verdict:
    """Whether the fit reached its target: by the share on target, or else by the referee's mean P(wanted answer)."""
    trained = evaluation.trained
    before, after = _most_independent(evaluation)
    if not math.isfinite(after) or not (_has_target(trained) or trained.referee is not None):
        return Verdict("", "")
    what = "images are on target" if _has_target(trained) else "images are as wanted, by the referee's answers"
    rise = after - before if math.isfinite(before) else after
    if rise <= -LITTLE:
        return Verdict("poor", f"Fewer {what} than without the LoRA.")
    if after < CONFIDENT:
        change = "hardly more" if rise < LITTLE else "though more"
        return Verdict("poor", f"Less than half of the {what}, {change} than without the LoRA.")
    if rise < LITTLE:
        return Verdict("partial", f"The LoRA changes little: about as many {what} without it.")
    if after < MOST:
        return Verdict("partial", f"At least half of the {what}, and more than without the LoRA.")
    return Verdict("good", f"Most {what}, and clearly more than without the LoRA.")


def judge_against_measurement(evaluation: Evaluation) -> tuple[str, bool]:
    """Whether judge and independent measurement agree, as a sentence, and whether it is a warning.

    Compares the judge's mean P(wanted answer) with the first scorer's share on target, or else with the referee.
    """
    base, trained = evaluation.base, evaluation.trained
    judge = mean(trained.judge)
    sentence = f"The judge's mean P(wanted answer) is {number(judge)}"
    before, other = _most_independent(evaluation)
    if _has_target(trained):
        sentence += f"; {percent(other)} of the images are on target."
    elif trained.referee is not None:
        sentence += f"; the referee's is {number(other)}."
    elif trained.scores:
        blind = not measured(trained.scores[0].values)
        why = "measured none of the images" if blind else "has no target to compare it with"
        return f"{sentence}; the scorer {why}.", blind
    else:
        return NO_PROOF, True
    gap, measures = judge - other, "the scorer measures" if _has_target(trained) else "the referee sees"
    if not math.isfinite(gap):
        return sentence, False
    if gap < -GAP_LIMIT:
        return f"{sentence} The judge is more cautious than that.", False
    if gap <= GAP_LIMIT:
        return f"{sentence} The two agree.", False
    if judge <= CONFIDENT:
        return f"{sentence} The judge is not sure of these images either.", False
    if gap - (mean(base.judge) - before) < GAP_LIMIT / 2:  # not of the training's making
        if other - before < LITTLE:
            return f"{sentence} The gap is as large on base images: the judge does not see what {measures}.", True
        return f"{sentence} The gap is as large on base images: the judge accepts more than {measures}.", False
    return f"{sentence} The judge is more confident than that: possible reward hacking.", True


def alarms(evaluation: Evaluation, notes: Sequence[str] = ()) -> list[str]:
    """Warnings: reasons to look at the images before using the LoRA.

    `notes` are what the run itself warned of: if the LoRA has little effect, these come before any other advice.
    """
    base, trained = evaluation.base, evaluation.trained
    sentence, alarming = judge_against_measurement(evaluation)
    found = [sentence] if alarming else []
    found += _blindness(evaluation)
    before, after = _most_independent(evaluation)
    if after < CONFIDENT and after - before < LITTLE:
        what = "images on target" if _has_target(trained) else f"the {REFEREE if trained.referee else JUDGE}"
        first = "First fix what this run warned of: it may be the cause. Then train" if notes else "Train"
        found.append(
            f"Little effect; {what}: {percent(before)} -> {percent(after)}. "
            f"{first} longer, raise train.lr, or lower the anchor's weight, and check with `dp ask` whether the judge "
            "can tell such images apart."
        )
    if not all(map(math.isfinite, (*trained.judge, trained.hack_meter))):
        found.append("Some images could not be judged: they have pixels that are not finite.")
    change = ratio(trained.hack_meter, base.hack_meter)
    if change > HACK_LIMIT:
        found.append(
            f"The hack meter is {times(change)} the base's: the base would not draw such images (reward hacking). "
            "Raise the anchor's weight, or train fewer steps."
        )
    whole, reference = "the diversity of base images that are as alike in the task", base.alike_diversity
    if not math.isfinite(reference):  # a run of an earlier version, or too few images
        whole, reference = "the base's diversity", base.diversity
    left = ratio(trained.diversity, reference)
    if left < DIVERSITY_LIMIT:
        found.append(f"Images of different seeds have become similar: {percent(left)} of {whole} is left.")
    if effects := [each for each in side_effects(evaluation) if abs(each.change) > EFFECT_LIMIT]:
        found.append(
            "The task does not ask for these changes, in standard deviations of the base images: "
            f"{', '.join(f'{each.label} {each.change:+.1f}' for each in effects[:LISTED_EFFECTS])}. The anchor "
            "{type: base_image, norm: l1, blur: 0.03, weight: 2} limits changes; if it is there, raise its weight."
        )
    if kept(base) - kept(trained) > LOST_LIMIT:
        found.append(
            f"Subjects were lost: {percent(kept(base))} are recognisable in base images, {percent(kept(trained))} now."
        )
    return found


def _blindness(evaluation: Evaluation) -> list[str]:
    """A warning for every scorer that measured none, or only a minority, of the base or of the trained images."""
    found = []
    for pair in zip(evaluation.base.scores, evaluation.trained.scores, strict=True):
        sides = [
            f"{unmeasured(score.values)} {which} images"
            for which, score in zip(("base", "trained"), pair, strict=True)
            if len(measured(score.values)) < MEASURED_LIMIT * len(score.values)
        ]
        if sides:
            found.append(
                f"{title(pair[1])}: {NOT_MEASURED} on {' and '.join(sides)}, because the scorer cannot tell there. "
                "Look at these images, and measure them with another scorer or the referee."
            )
    return found


def step_note(record: StepRecord, referee: float | None) -> str:
    """The numbers of a training step for a progress bar; `referee` is the referee's latest P(wanted answer)."""
    seen = "" if referee is None else f" referee {referee:.2f}"
    skipped = " (not finite: skipped)" if record.skipped else ""
    return f"loss {record.loss:.2f} reward {record.reward:.2f}{seen}{skipped}"


def memory_used(outcome: Outcome) -> str:
    """The peak memory of a fit: `1.2 GB of main memory, 56.6 GB on cuda:0`; empty where nothing is known."""
    main = [f"{outcome.peak_memory / 1e9:.1f} GB of main memory"] if outcome.peak_memory else []
    return ", ".join([*main, *(f"{peak / 1e9:.1f} GB on {device}" for device, peak in outcome.peak_gpu_memory.items())])


def _has_target(measurement: Measurement) -> bool:
    """Whether the first scorer has a share on target: it has an accepted range, and measured an image."""
    return bool(measurement.scores) and math.isfinite(share_on_target(measurement.scores[0]))


def _most_independent(evaluation: Evaluation) -> tuple[float, float]:
    """Base and trained: the share on target if there is one, else the referee's mean P, else the judge's."""
    base, trained = evaluation.base, evaluation.trained
    if _has_target(trained):
        return share_on_target(base.scores[0]), share_on_target(trained.scores[0])
    if base.referee is not None and trained.referee is not None:
        return mean(base.referee), mean(trained.referee)
    return mean(base.judge), mean(trained.judge)


def kept(measurement: Measurement) -> float:
    """Share of the images whose subject the referee recognises; nan if the spec has no `preserve` question."""
    answers = measurement.preserved or ()
    return sum(p > PRESERVED_ABOVE for p in answers) / len(answers) if answers else math.nan


def share_on_target(score: Score) -> float:
    """Share of the images whose value is accepted; nan if the scorer has no accepted range, or measured no image."""
    return math.nan if score.on_target is None or not measured(score.values) else score.on_target


def percent_on_target(score: Score) -> str:
    """`91%`; `not measured` if no image has a value, and a dash without an accepted range."""
    blind = score.accepted is not None and not measured(score.values)
    return NOT_MEASURED if blind else percent(share_on_target(score))


def title(score: Score) -> str:
    """A scorer's name as words: `line weight`."""
    return score.name.replace("_", " ")


def within(score: Score) -> str:
    """The values on target: `within 0.011 to 0.021`; empty if the scorer has no such range."""
    return "" if score.accepted is None else "within {:.3g} to {:.3g}".format(*score.accepted)


def _slider_rows(base: Calibration, trained: Calibration) -> list[Row]:
    asked = [point.asked for point in trained.points]
    note = f"|measured - asked|, by {trained.scorer.replace('_', ' ')}, {trained.unit}"
    before, after = (
        f"{number(one.error)} ± {number(one.spread, digits=2)}" if math.isfinite(one.error) else NOT_MEASURED
        for one in (base, trained)
    )
    values = f"of asked and measured; {len(asked)} values, {min(asked):g} to {max(asked):g}"
    rows = [
        Row(f"slider {trained.slider}: error", before, after, note),
        Row(f"slider {trained.slider}: rank correlation", number(base.spearman), number(trained.spearman), values),
    ]
    for other in trained.effects if len(trained.effects) > 1 else ():
        before, after = number(base.effects.get(other, math.nan)), number(trained.effects[other])
        wanted = max(asked) - min(asked) if other == trained.slider else 0
        label = f"slider {other}: effect on {trained.scorer.replace('_', ' ')}"
        rows.append(Row(label, before, after, f"from end to end, {trained.unit}; asked for: {number(wanted)}"))
    return rows


def _score_rows(base: Score, trained: Score) -> list[Row]:
    name = title(trained)
    rows = [Row(name, mean_and_spread(base.values), mean_and_spread(trained.values), _aim(trained, unit=True))]
    if trained.accepted is not None or trained.on_target is not None:
        rows.append(Row(f"{name} on target", percent_on_target(base), percent_on_target(trained), within(trained)))
    blind = [unmeasured(score.values) for score in (base, trained)]
    if any(blind):
        before, after = (count or "0" for count in blind)
        note = "images" if math.isnan(share_on_target(trained)) else "images; they count as missed"
        rows.append(Row(f"{name} {NOT_MEASURED}", before, after, note))
    return rows


def _aim(score: Score, *, unit: bool = False) -> str:
    aim = f"target {score.target:g}" if score.target is not None else ""
    if not aim and score.better in ("higher", "lower"):
        aim = f"{score.better} is better"
    return ", ".join(part for part in (aim, score.unit if unit else "") if part)
