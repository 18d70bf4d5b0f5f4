"""The shipped specs: each works with the shipped models and, with two overrides, with real models."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from dualproc.engine import Engine
from dualproc.resolve import check_plugins, read_checked
from dualproc.spec import TaskSpec

SPECS = sorted((Path(__file__).parents[1] / "specs").glob("*.yaml"))
REAL = ("generator.type=flux-schnell", "judge.type=qwen2.5-vl")
TASKS = {"line_weight", "horizon", "palette", "relative_depth", "composition", "commonsense", "attribute"}


def variants(file: Path, *overrides: str) -> list[TaskSpec]:
    return [one.require() for one in read_checked(file, overrides=overrides).each()]


def test_every_task_of_the_paper_has_a_spec() -> None:
    assert {file.stem for file in SPECS} == TASKS


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_the_comment_has_the_command_and_the_expected_result(file: Path) -> None:
    comment = re.match(r"(#.*\n)+", file.read_text(encoding="utf-8"))
    assert comment is not None
    assert f"dp run specs/{file.name}" in comment[0]
    assert "Expect:" in comment[0]


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_held_out_images_are_at_least_64_and_measured_by_a_scorer(file: Path) -> None:
    for spec in variants(file):
        assert len(spec.prompts.eval) * spec.evaluation.seeds >= 64
        assert spec.scorers
        assert spec.referee is not None
        assert spec.preserve is not None


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_with_real_models_only_generator_and_judge_differ(file: Path) -> None:
    for tiny, real in zip(variants(file), variants(file, *REAL), strict=True):
        check_plugins(real)
        changed = {key for key, value in real.model_dump().items() if value != tiny.model_dump()[key]}
        assert changed == {"generator", "judge"}
        assert (real.generator.type, real.judge.type) == ("flux-schnell", "qwen2.5-vl")


@pytest.mark.parametrize("file", SPECS, ids=lambda file: file.stem)
def test_a_training_step_changes_the_lora(file: Path) -> None:
    overrides = ("train.batch=1", "train.lora.rank=2", "evaluation.seeds=1")
    engine = Engine(variants(file, *overrides)[0])
    before = [weight.detach().clone() for weight in engine.weights]
    record = engine.step()
    assert math.isfinite(record.loss)
    assert record.grad_norm > 0
    assert any((weight.detach() != old).any() for weight, old in zip(engine.weights, before, strict=True))


def test_a_preserve_question_among_the_questions_is_not_measured_with_the_task() -> None:
    spec = next(spec for spec in variants(SPECS[0].with_name("composition.yaml")))
    assert spec.preserve is not None
    assert spec.preserve.template in [question.template for question in spec.questions]
    assert [question.template for question in spec.measured_questions] == [spec.questions[0].template]
    alone = variants(
        SPECS[0].with_name("composition.yaml"), "question={template: 'Is this still a drawing of {subject}?'}"
    )
    assert alone[0].measured_questions == alone[0].questions
