"""What an evaluation says, in rows and sentences: the one source of the numbers in report, model card and terminal."""

from __future__ import annotations

import math
from typing import NamedTuple

from dualproc.types import Evaluation, Measurement, Score

from .numeric import mean, mean_and_spread, measured, number, percent, ratio, share_above, times

PRESERVED_ABOVE = 0.5
"""A picture's subject counts as kept if the referee's P(wanted answer) to the `preserve` question is over this."""
GAP_LIMIT = 0.1
"""The judge may be this much more content than the independent measurement before that is called a warning."""
CONTENT = 0.5
"""A judge whose mean P(wanted answer) is below this is not content, whatever the measurement says."""
LITTLE = 0.1
"""A rise below this, to less than half, is little."""
HACK_LIMIT = 1.5
"""Hack meter, as a multiple of the base's: healthy fits stay below, hacked ones end at 3 to 7."""
DIVERSITY_LIMIT = 0.5
"""Share of the base's diversity that must be left."""
LOST_LIMIT = 0.1
"""Share of the subjects that may be lost."""

KEPT = "subjects kept"
HACK_METER = "hack meter"
JUDGE = "judge's P(wanted answer)"
REFEREE = "referee's P(wanted answer)"
NO_PROOF = "Nothing independent was measured: only the judge, which taught, was asked. Add a scorer or a referee."


class Row(NamedTuple):
    """One line of the table of results."""

    label: str
    before: str
    """The base generator's number."""
    after: str
    """The taught generator's number."""
    note: str
    """Target, unit, or how to read it; may be empty."""


def summary_rows(evaluation: Evaluation) -> list[Row]:
    """The table of results: every scorer, judge, referee, subjects kept, hack meter, diversity."""
    base, taught = evaluation.base, evaluation.taught
    rows = [row for pair in zip(base.scores, taught.scores, strict=True) for row in _score_rows(*pair)]
    rows.append(Row(JUDGE, mean_and_spread(base.judge), mean_and_spread(taught.judge), "it taught, so it is no proof"))
    if base.referee is not None and taught.referee is not None:
        rows.append(Row(REFEREE, mean_and_spread(base.referee), mean_and_spread(taught.referee), "it never taught"))
    if base.preserved is not None and taught.preserved is not None:
        note = f"pictures where the referee's P is over {PRESERVED_ABOVE}"
        rows.append(Row(KEPT, percent(kept(base)), percent(kept(taught)), note))
    for label, before, after in (
        (HACK_METER, base.hack_meter, taught.hack_meter),
        ("diversity", base.diversity, taught.diversity),
    ):
        change = ratio(after, before)
        note = f"{times(change)} the base's" if math.isfinite(change) else ""
        rows.append(Row(label, number(before), number(after), note))
    return rows


def picture_rows(measurement: Measurement) -> list[tuple[str, str, str, str]]:
    """The table of pictures of any origin: what was measured, its mean, the share on target, how to read it."""
    rows = []
    for score in measurement.scores:
        blind = len(score.values) - len(measured(score.values))
        notes = (_aim(score, unit=True), within(score), f"{blind} not measurable" if blind else "")
        shown = "" if score.on_target is None else _share(score)
        rows.append((title(score), mean_and_spread(score.values), shown, ", ".join(filter(None, notes))))
    rows.append((JUDGE, mean_and_spread(measurement.judge), "", "it teaches, so it is no proof of what it taught"))
    if measurement.referee is not None:
        rows.append((REFEREE, mean_and_spread(measurement.referee), "", "it never teaches"))
    if measurement.preserved is not None:
        note = f"pictures where the referee's P is over {PRESERVED_ABOVE}"
        rows.append((KEPT, percent(kept(measurement)), "", note))
    return rows


def picture_columns(measurement: Measurement) -> list[tuple[str, tuple[float, ...]]]:
    """What was measured on each picture: headings, no two alike, and values."""
    columns: list[tuple[str, tuple[float, ...]]] = []
    for score in measurement.scores:
        same = sum(other.name == score.name for other in measurement.scores[: len(columns)])
        columns.append((score.name + (f"_{same + 1}" if same else ""), score.values))
    rest = (("judge", measurement.judge), ("referee", measurement.referee), ("subject_kept", measurement.preserved))
    return columns + [(name, values) for name, values in rest if values is not None]


def headline(evaluation: Evaluation) -> str:
    """The outcome in one line: the independent measurement first, then what it cost."""
    base, taught = evaluation.base, evaluation.taught
    parts = [outcome(evaluation)]
    if _has_target(taught):
        parts.append(f"pictures on target {_share(base.scores[0])} -> {_share(taught.scores[0])}")
    if base.preserved is not None and taught.preserved is not None:
        parts.append(f"{KEPT} {percent(kept(base))} -> {percent(kept(taught))}")
    change = ratio(taught.hack_meter, base.hack_meter)
    if math.isfinite(change):
        parts.append(f"{HACK_METER} {times(change)} the base's")
    return "; ".join(parts)


def outcome(evaluation: Evaluation) -> str:
    """The most independent number there is, before and after."""
    base, taught = evaluation.base, evaluation.taught
    if taught.scores:
        before, after = base.scores[0], taught.scores[0]
        note = f" ({_aim(after)})" if _aim(after) else ""
        change = f"{number(mean(before.values))} -> {number(mean(after.values))}"
        return f"Measured {title(after)}: {change}{note}"
    if base.referee is not None and taught.referee is not None:
        return f"The {REFEREE}: {number(mean(base.referee))} -> {number(mean(taught.referee))}"
    return f"The {JUDGE}: {number(mean(base.judge))} -> {number(mean(taught.judge))} (not an independent measurement)"


def judge_against_measurement(evaluation: Evaluation) -> tuple[str, bool]:
    """A sentence on whether judge and independent measurement agree, and whether it is a warning.

    The judge's mean P(wanted answer) is compared with the first scorer's share on target, or else with the referee.
    """
    base, taught = evaluation.base, evaluation.taught
    judge = mean(taught.judge)
    before, other = _on_target(base), _on_target(taught)
    if _has_target(taught):
        what = f"{_share(taught.scores[0])} of the pictures are on target"
    elif taught.referee is not None:
        what = f"the referee's is {number(mean(taught.referee))}"
    elif taught.scores:
        return f"The judge's mean P(wanted answer) is {number(judge)}; no target says what share it should be.", False
    else:
        return NO_PROOF, True
    sentence = f"The judge's mean P(wanted answer) is {number(judge)}; {what}."
    gap = judge - other
    if gap > GAP_LIMIT and judge > CONTENT:
        if gap - (mean(base.judge) - before) < GAP_LIMIT / 2:
            return f"{sentence} It was as far from it with the base's: the judge sees something else.", True
        return f"{sentence} The judge is too content: the fit may have learnt to please it.", True
    return f"{sentence} The two do not contradict each other.", False


def alarms(evaluation: Evaluation) -> list[str]:
    """Everything that should make one look at the pictures before using the LoRA; empty if nothing does."""
    base, taught = evaluation.base, evaluation.taught
    sentence, alarming = judge_against_measurement(evaluation)
    found = [sentence] if alarming else []
    before, after = _on_target(base), _on_target(taught)
    if after < CONTENT and after - before < LITTLE:
        what = "pictures on target" if _has_target(taught) else f"the {REFEREE if taught.referee else JUDGE}"
        found.append(
            f"Little was learnt, {what}: {percent(before)} -> {percent(after)}. "
            "Teach more steps, raise train.lr, or lower the anchor's weight; and ask the judge (`dp ask`) whether it "
            "tells such pictures apart."
        )
    if not all(map(math.isfinite, (*taught.judge, taught.hack_meter))):
        found.append("Some pictures could not be judged: their pixels are not numbers.")
    change = ratio(taught.hack_meter, base.hack_meter)
    if change > HACK_LIMIT:
        found.append(
            f"The hack meter is {times(change)} the base's: the pictures have left what the base would draw. "
            "Raise the anchor's weight, or teach fewer steps."
        )
    left = ratio(taught.diversity, base.diversity)
    if left < DIVERSITY_LIMIT:
        found.append(f"Pictures of different seeds have become alike: {percent(left)} of the base's diversity is left.")
    if kept(base) - kept(taught) > LOST_LIMIT:
        found.append(
            f"Subjects were lost: {percent(kept(base))} were recognisable before, {percent(kept(taught))} are now."
        )
    return found


def _has_target(measurement: Measurement) -> bool:
    return bool(measurement.scores) and measurement.scores[0].on_target is not None


def _on_target(measurement: Measurement) -> float:
    """The most independent number between 0 and 1: share on target, else the referee's, else the judge's mean P."""
    if measurement.scores and measurement.scores[0].on_target is not None:
        return measurement.scores[0].on_target
    return mean(measurement.judge if measurement.referee is None else measurement.referee)


def kept(measurement: Measurement) -> float:
    """Share of the pictures whose subject is still there; nan if the spec has no `preserve` question."""
    return math.nan if measurement.preserved is None else share_above(measurement.preserved, PRESERVED_ABOVE)


def title(score: Score) -> str:
    """A scorer's name as words: `line weight`."""
    return score.name.replace("_", " ")


def within(score: Score) -> str:
    """Which values are on target: `within 0.011 to 0.021`; empty if the scorer does not say."""
    return "" if score.accepted is None else "within {:.3g} to {:.3g}".format(*score.accepted)


def _score_rows(base: Score, taught: Score) -> list[Row]:
    name = title(taught)
    rows = [Row(name, mean_and_spread(base.values), mean_and_spread(taught.values), _aim(taught, unit=True))]
    if base.on_target is not None and taught.on_target is not None:
        rows.append(Row(f"{name} on target", _share(base), _share(taught), within(taught)))
    blind = [len(score.values) - len(measured(score.values)) for score in (base, taught)]
    if any(blind):
        rows.append(Row(f"{name} not measurable", str(blind[0]), str(blind[1]), f"of {len(taught.values)} pictures"))
    return rows


def _aim(score: Score, *, unit: bool = False) -> str:
    aim = f"target {score.target:g}" if score.target is not None else ""
    if not aim and score.better in ("higher", "lower"):
        aim = f"{score.better} is better"
    return ", ".join(part for part in (aim, score.unit if unit else "") if part)


def _share(score: Score) -> str:
    return percent(math.nan if score.on_target is None else score.on_target)
