"""The plan of the ablation: every setting is a valid spec, changes only its guard, and uses no held-out prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_examples import finished
from run_examples import evaluation

from dualproc.report.bench import read_result
from dualproc.resolve import check_plugins, load_spec
from dualproc.run.records import to_json
from tools.ablation import BEGIN, END, Planned, plan, result, write

SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> list[Planned]:
    return plan(f"{SPEC}:thick", tmp_path_factory.getbasetemp(), overrides=["train.steps=24"])


def test_held_out_prompts_are_never_used(planned: list[Planned]) -> None:
    prompts = load_spec(SPEC, variant="thick").prompts
    for one in planned:
        split = one.job.spec.prompts
        assert len(split.eval) >= 4
        assert not set(split.train) & set(split.eval)
        assert {*split.train, *split.eval} == set(prompts.train)


def test_every_setting_changes_only_its_guard(planned: list[Planned]) -> None:
    whole = planned[0].job.spec
    keys = {
        "anchor": {"anchor"}, "subject question": {"question"}, "batch": {"train"},
        "early stopping": {"train"}, "reward": {"reward"},
    }  # fmt: skip
    for one in planned[1:]:
        changed = {key for key in type(whole).model_fields if getattr(one.job.spec, key) != getattr(whole, key)}
        assert changed <= keys[one.setting.guard], one.setting


def test_parameters_of_the_settings_are_valid(planned: list[Planned]) -> None:
    for name in ("both", "answer_likelihood"):
        (one,) = [one for one in planned if one.setting.name == name]
        check_plugins(one.job.spec)


def test_settings_with_the_same_spec_share_one_fit(planned: list[Planned]) -> None:
    jobs = {one.job for one in planned}
    assert len({job.folder for job in jobs}) == len(jobs) < len(planned)
    assert all(a is b or a.spec != b.spec for a in jobs for b in jobs)


def test_all_batch_sizes_train_on_the_same_number_of_images(planned: list[Planned]) -> None:
    trains = [one.job.spec.train for one in planned if one.setting.guard == "batch"]
    assert [train.batch for train in trains] == [1, 4, 8]
    assert {train.batch * train.steps for train in trains} == {96}


def test_result_at_another_strength_is_evaluated_once_and_then_read(planned: list[Planned], tmp_path: Path) -> None:
    job = replace(planned[0].job, folder=finished(tmp_path / "run"))
    assert result(job) == read_result(job.folder)
    weaker = evaluation(judge=(0.5, 0.5, 0.5, 0.5))
    (tmp_path / "run.0.5.json").write_text(to_json(weaker), encoding="utf-8")
    assert result(job, strength=0.5).judge.after == 0.5
    assert result(job, strength=0.5).outcome == result(job).outcome


def test_new_table_replaces_the_old_one_and_keeps_the_text_around_it(tmp_path: Path) -> None:
    doc = tmp_path / "ablation.md"
    write(doc, ["| first |"], "8 images.")
    doc.write_text(doc.read_text() + "\nFindings, written by hand.\n")
    write(doc, ["| second |"], "9 images.")
    text = doc.read_text()
    assert text.startswith("# What the guards do")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "| second |" in text
    assert "| first |" not in text
    assert text.endswith("Findings, written by hand.\n")
