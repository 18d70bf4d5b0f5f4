"""`dp audit`: questions asked about base images before training."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from found_images import dp

from dualproc.engine.audit import Audit, audit_spec
from dualproc.resolve import load_spec
from dualproc.spec import TaskSpec

LINE = "Is the overlaid red line aligned with the horizon of the scene?"
ALPHA = "visual_prompt.blend=alpha"
RAIN = 'question={template: "Is it raining?"}'
SUBJECT = "Is this still a drawing of {subject}?"


def horizon(*overrides: str) -> TaskSpec:
    return load_spec("horizon", variant="low", overrides=overrides)


@pytest.fixture(scope="module")
def shipped() -> Audit:
    return audit_spec(horizon())


def test_shipped_spec_has_no_findings(shipped: Audit) -> None:
    assert shipped.findings == ()
    asked = [(one.role, one.question.template, one.plain is None) for one in shipped.answers]
    assert asked == [
        ("judge", LINE, False), ("judge", SUBJECT, False), ("referee", LINE, False), ("referee", SUBJECT, True),
    ]  # fmt: skip
    assert all(len(one.seen) == 16 and 0 <= min(one.seen) <= max(one.seen) <= 1 for one in shipped.answers)
    assert shipped.images.shape == shipped.judge_view.shape == (16, 3, 64, 64)
    assert not torch.equal(shipped.images, shipped.judge_view)


def test_the_judge_is_asked_in_all_wordings_and_the_referee_in_that_of_the_evaluation() -> None:
    other = "Does the red line match the horizon?"
    audited = audit_spec(horizon(f'question={{template: "{LINE}", paraphrases: ["{other}", "Is it raining?"]}}'))
    assert [(one.role, one.question.template) for one in audited.answers] == [
        ("judge", LINE), ("judge", other), ("judge", "Is it raining?"), ("referee", LINE), ("referee", SUBJECT),
    ]  # fmt: skip
    assert any("the judge" in text and "does not know the words: it, raining?" in text for text in audited.warnings)


def test_images_are_of_training_prompts_and_seeds_of_their_own(shipped: Audit) -> None:
    spec = horizon()
    assert [prompt.text for prompt in shipped.prompts] == [p.text for p in spec.prompts.train_prompts()][:16]
    assert min(shipped.seeds) >= 3 * 2**31


def test_answers_do_not_depend_on_the_batch(shipped: Audit) -> None:
    again = audit_spec(horizon("evaluation.batch=5"))
    assert torch.allclose(again.images, shipped.images, atol=1e-5)
    for one, other in zip(again.answers, shipped.answers, strict=True):
        assert one.seen == pytest.approx(other.seen, abs=1e-3)


def test_question_behind_an_opaque_visual_prompt_is_blind() -> None:
    whole = "visual_prompt.layers=[{type: box, from: [0, 0], to: [1, 1], fill: red, color: red}]"
    found = audit_spec(horizon(whole)).findings
    assert [text.split(":")[1].strip() for text in found if LINE in text] == ["blind", "blind"]


def test_question_whose_answer_is_already_as_wanted_is_pointed_out() -> None:
    already = audit_spec(horizon(f"question={{template: {json.dumps(SUBJECT)}}}", "preserve=null"))
    assert ["already Yes for base images" in text for text in already.findings] == [True, True]


def test_question_that_does_not_need_the_visual_prompt_is_pointed_out() -> None:
    found = audit_spec(horizon('question={template: "Is the sky blue?"}', "visual_prompt.opacity=0.02", ALPHA)).findings
    assert found
    assert all("the same without the visual prompt" in text for text in found)


def test_unknown_words_are_findings_and_are_not_printed_twice(recwarn: pytest.WarningsRecorder) -> None:
    words = audit_spec(horizon(RAIN)).warnings
    assert [text.split(" '")[0] for text in words] == ["the judge", "the referee"]
    assert all("does not know the words: it, raining?" in text for text in words)
    assert not [one for one in recwarn if "does not know" in str(one.message)]


def test_unknown_words_of_held_out_prompts_are_findings_before_training() -> None:
    found = audit_spec(horizon("prompts.eval=[a spaceship]")).findings
    assert any("the generator" in text and "does not know the words: spaceship" in text for text in found)


def test_candidates_that_the_judge_does_not_say_are_pointed_out() -> None:
    question = 'question={template: "Is the sky blue?", answer: sheep, candidates: [sheep, cat]}'
    found = audit_spec(horizon(question)).findings
    assert any("does not answer with sheep or cat" in text for text in found)


def test_command_prints_a_table_and_its_exit_code_says_whether_anything_was_found(
    capsys: pytest.CaptureFixture[str], shipped: Audit
) -> None:
    code, out, err = dp(capsys, "audit", "horizon", "--variant", "low")
    assert (code, err) == (0, "")
    assert out.count(LINE) == 2
    assert f"{shipped.answers[0].mean:#.3g}" in out

    bad: list[Any] = ["audit", "horizon", "--variant", "low", "--set", RAIN]
    code, _, err = dp(capsys, *bad)
    assert code == 1
    assert err.count("does not know the words") == 2
    code, out, _ = dp(capsys, *bad, "--json")
    assert code == 1
    assert json.loads(out)["horizon/low"]["findings"]
