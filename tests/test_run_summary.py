"""The numbers and sentences that report, model card and terminal share."""

from __future__ import annotations

import dataclasses
import math

import pytest
from run_examples import evaluation, measurement, score

from dualproc.report import alarms, headline, image_rows, summary_rows
from dualproc.report.numeric import mean_and_spread, spread
from dualproc.report.summary import NO_PROOF, judge_against_measurement, kept, verdict
from dualproc.wording import number, percent, times


def test_the_rows_have_every_number_once() -> None:
    rows = {row.label: row[1:] for row in summary_rows(evaluation())}
    assert rows == {
        "line weight": ("0.0300 ± 0.0071", "0.0420 ± 0.00082", "target 0.042, of the height"),
        "line weight on target": ("25%", "75%", "within 0.036 to 0.048"),
        "line weight not measured": ("0", "1 of 4", "images; they count as missed"),
        "judge's P(wanted answer)": ("0.300 ± 0.071", "0.750 ± 0.050", "it trained the LoRA, so it proves nothing"),
        "referee's P(wanted answer)": ("0.200 ± 0.071", "0.700 ± 0.071", "it took no part in training"),
        "subjects kept": ("100%", "100%", "share of images with the referee's P above 0.5"),
        "hack meter": ("0.0300", "0.0330", "1.1x the base's"),
        "diversity": ("0.200", "0.190", "0.9x the base's"),
        "diversity beyond the task": ("0.190", "0.190", "1.0x the base's"),
        "colour diversity": ("20.0", "5.00", "0.2x the base's"),
    }


def test_the_headline_begins_with_the_share_on_target_and_the_base() -> None:
    assert headline(evaluation()) == (
        "75% of 4 held-out images on target (base: 25%); "
        "line weight: 0.0300 -> 0.0420 (target 0.042), 1 of 4 not measured; "
        "subjects kept 100% -> 100%; hack meter 1.1x the base's"
    )
    plain = {"scores": (), "preserved": None}
    assert headline(evaluation(measurement(**plain), **plain)).startswith(
        "The referee's P(wanted answer): 0.200 -> 0.700;"
    )
    plain |= {"referee": None}
    assert "(not an independent measurement)" in headline(evaluation(measurement(**plain), **plain))


def test_a_score_without_a_target_says_which_way_is_better() -> None:
    changes = {
        "target": None,
        "on_target": None,
        "accepted": None,
        "better": "higher",
        "name": "sharpness",
        "unit": "",
    }
    found = evaluation(measurement(scores=(score((1.0, 2.0), **changes),)), scores=(score((3.0, 4.0), **changes),))
    assert headline(found).startswith("Measured sharpness: 1.50 -> 3.50 (higher is better); subjects")
    assert judge_against_measurement(found)[1] is False
    assert [row.label for row in summary_rows(found)][:2] == ["sharpness", "judge's P(wanted answer)"]


def test_a_healthy_fit_gives_no_warning() -> None:
    assert alarms(evaluation()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"judge": (0.86, 0.86, 0.86, 0.86)}, "possible reward hacking"),  # 75% are on target
        ({"hack_meter": 0.046}, "hack meter is 1.5x"),
        ({"hack_meter": math.nan}, "could not be judged"),
        ({"diversity": 0.09}, "47% of the diversity of base images that are as alike in the task"),
        (
            {"side_effects": (score((0.04, 0.05, 0.06, 0.05), name="tone lightness"),)},
            "images: tone lightness +2.8. The anchor {type: base_image, norm: l1",
        ),
        ({"preserved": (0.9, 0.9, 0.9, 0.4)}, "100% are recognisable in base images, 75% now"),
    ],
)
def test_each_kind_of_damage_gives_its_own_warning(changes: dict[str, object], words: str) -> None:
    base = (
        {"side_effects": (score((0.02, 0.03, 0.04, 0.03), name="tone lightness"),)} if "side_effects" in changes else {}
    )
    (alarm,) = alarms(evaluation(measurement(**base), **changes))
    assert words in alarm


def test_a_gap_that_base_images_have_too_is_not_called_reward_hacking() -> None:
    found = evaluation(measurement(judge=(0.45,) * 4), judge=(0.95,) * 4)  # 25% were on target, 75% are
    assert alarms(found) == []
    assert "the judge accepts more than the scorer measures" in judge_against_measurement(found)[0]


def test_a_judge_is_called_blind_only_if_the_measurement_did_not_follow_it() -> None:
    few = score((0.042, 0.03, 0.03, 0.03))
    worked = evaluation(measurement(judge=(0.2,) * 4, scores=(score((0.03,) * 4),)), judge=(0.9,) * 4)  # 0% -> 75%
    assert not any("does not see" in alarm for alarm in alarms(worked))
    blind = evaluation(measurement(judge=(0.9,) * 4, scores=(few,)), judge=(0.93,) * 4, scores=(few,))
    assert "the judge does not see what the scorer measures" in alarms(blind)[0]
    plain = {"scores": (), "preserved": None, "referee": (0.3,) * 4}
    blind = evaluation(measurement(judge=(0.9,) * 4, **plain), judge=(0.93,) * 4, **plain)
    assert "the judge does not see what the referee sees" in alarms(blind)[0]


@pytest.mark.parametrize(
    ("judge", "share", "words"),
    [(0.42, 0.39, "The two agree."), (0.3, 0.9, "The judge is more cautious"), (0.5, 0.1, "not sure of these images")],
)
def test_judge_and_measurement_agree_only_if_their_numbers_do(judge: float, share: float, words: str) -> None:
    found = evaluation(judge=(judge,) * 4, scores=(score((0.04,) * 4, on_target=share),))
    sentence, alarming = judge_against_measurement(found)
    assert not alarming
    assert words in sentence


@pytest.mark.parametrize(
    ("before", "after", "level", "words"),
    [
        (0.0, 0.9, "good", "Most images are on target, and clearly more"),
        (0.0, 0.79, "partial", "At least half"),
        (0.0, 0.39, "poor", "Less than half of the images are on target, though more"),
        (0.35, 0.39, "poor", "hardly more"),
        (0.85, 0.9, "partial", "The LoRA changes little"),
        (0.99, 0.85, "poor", "Fewer images are on target than without the LoRA"),
        (math.nan, 0.9, "good", "Most images"),
    ],
)
def test_the_verdict_follows_the_share_on_target_and_the_base(
    before: float, after: float, level: str, words: str
) -> None:
    none = math.isnan(before)
    left = score((math.nan,) if none else (0.04,), on_target=None if none else before)
    found = evaluation(measurement(scores=(left,)), scores=(score((0.04,), on_target=after),))
    assert verdict(found).level == level
    assert words in verdict(found).sentence


def test_without_a_scorer_the_referee_gives_the_verdict_and_the_judge_never_does() -> None:
    plain = {"scores": (), "preserved": None}
    found = verdict(evaluation(measurement(**plain), referee=(0.9,) * 4, **plain))
    assert found.level == "good"
    assert found.sentence.startswith("Most images are as wanted, by the referee's answers, and clearly more")
    plain |= {"referee": None}
    assert verdict(evaluation(measurement(**plain), judge=(0.99,) * 4, **plain)) == ("", "")


def test_an_unconfident_judge_gives_no_warning_of_reward_hacking() -> None:
    low = evaluation(judge=(0.45,) * 4, scores=(score((0.03,) * 4, on_target=0.3),))
    assert not any("reward hacking" in alarm for alarm in alarms(low))


def test_a_fit_with_little_effect_says_so() -> None:
    same = measurement().scores
    (alarm,) = alarms(evaluation(judge=(0.3,) * 4, scores=same))
    assert "Little effect; images on target: 25% -> 25%" in alarm
    (alarm,) = alarms(evaluation(measurement(scores=()), scores=(), judge=(0.3,) * 4, referee=(0.25,) * 4))
    assert "the referee's P(wanted answer): 20% -> 25%" in alarm


def test_the_runs_own_warnings_come_before_the_advice_to_train_longer() -> None:
    found = evaluation(judge=(0.3,) * 4, scores=measurement().scores)
    assert "25%. Train longer" in alarms(found)[0]
    assert "25%. First fix what this run warned of: it may be the cause. Then train longer" in alarms(found, ["a"])[0]


def test_values_just_inside_the_limits_give_no_warning() -> None:
    assert alarms(evaluation(judge=(0.84,) * 4, hack_meter=0.044, diversity=0.11)) == []


def test_without_a_scorer_the_judge_is_compared_with_the_referee() -> None:
    base = measurement(scores=())
    assert judge_against_measurement(evaluation(base, scores=()))[1] is False
    assert judge_against_measurement(evaluation(base, scores=(), judge=(0.9,) * 4))[1] is True
    base = dataclasses.replace(base, referee=None)
    assert judge_against_measurement(evaluation(base, scores=(), referee=None)) == (NO_PROOF, True)


def test_a_scorer_without_any_value_is_not_measured_and_never_0_percent() -> None:
    blind = score((math.nan, math.nan))
    found = evaluation(measurement(scores=(blind,), hack_meter=math.nan), scores=(blind,), diversity=math.nan)
    rows = {row.label: row for row in summary_rows(found)}
    assert rows["line weight"][1:3] == rows["line weight on target"][1:3] == ("not measured", "not measured")
    assert rows["line weight not measured"][1:3] == ("2 of 2", "2 of 2")
    assert headline(found).startswith("Line weight: not measured. The referee's P(wanted answer): 0.200 -> 0.700;")
    assert "on target" not in headline(found)
    assert image_rows(found.trained)[0][1:3] == ("not measured", "not measured")
    (alarm,) = [text for text in alarms(found) if "line weight" in text]
    assert alarm.startswith("line weight: not measured on 2 of 2 base images and 2 of 2 trained images")
    assert " 0%" not in " ".join([headline(found), alarm, *(" ".join(row) for row in summary_rows(found)[:3])])
    assert rows["diversity"].note == rows["hack meter"].note == ""
    assert "hack meter" not in headline(found)


def test_a_scorer_that_measured_only_base_or_only_trained_images_is_compared_with_nothing() -> None:
    blind = score((math.nan,) * 4)
    only_base = evaluation(scores=(blind,))
    assert headline(only_base).startswith("Line weight: not measured.")
    assert "the referee's is 0.7" in judge_against_measurement(only_base)[0]
    only_trained = evaluation(measurement(scores=(blind,)))
    assert "75% of 4 held-out images on target (base: not measured)" in headline(only_trained)
    assert "line weight: not measured -> 0.0420 (target 0.042), 1 of 4 not measured" in headline(only_trained)
    (alarm,) = alarms(only_trained)
    assert "not measured on 4 of 4 base images," in alarm


def test_a_minority_of_images_without_a_value_gives_no_warning() -> None:
    half = score((0.041, 0.042, math.nan, math.nan))
    assert not any("not measured" in text for text in alarms(evaluation(scores=(half,))))
    most = score((0.041, math.nan, math.nan, math.nan))
    assert any("not measured on 3 of 4 trained images" in text for text in alarms(evaluation(scores=(most,))))


def test_a_subject_counts_as_kept_above_one_half_and_as_lost_without_an_answer() -> None:
    assert kept(measurement(preserved=(0.9, math.nan, 0.5, 0.6))) == 0.5
    assert math.isnan(kept(measurement(preserved=())))
    assert math.isnan(kept(measurement(preserved=None)))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.02431, "0.0243"), (1.2, "1.20"), (43.77, "43.8"), (999.6, "1,000"), (12040.0, "12,040"), (0.0, "0"),
     (-2.234, "-2.23"), (math.nan, "–"), (math.inf, "–")],  # noqa: RUF001
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_statistics_ignore_missing_values() -> None:
    assert mean_and_spread((1.0, 3.0, math.nan)) == "2.00 ± 1.0"
    assert spread((5.0,)) == 0
    assert (percent(0.914), times(1.08), times(31.2)) == ("91%", "1.1x", "31x")
