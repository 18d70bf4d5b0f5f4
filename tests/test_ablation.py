"""The ablation's plan: every setting is a right spec, differs in its guard alone, and draws nothing held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualproc.resolve import check_plugins, load_spec
from tools.ablation import BEGIN, END, Planned, plan, write

SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> list[Planned]:
    return plan(f"{SPEC}:thick", tmp_path_factory.getbasetemp(), given=["train.steps=24"])


def test_no_held_out_subject_is_drawn(planned: list[Planned]) -> None:
    prompts = load_spec(SPEC, variant="thick").prompts
    for one in planned:
        split = one.job.spec.prompts
        assert len(split.eval) >= 4
        assert not set(split.train) & set(split.eval)
        assert {*split.train, *split.eval} == set(prompts.train)


def test_every_setting_changes_its_guard_alone(planned: list[Planned]) -> None:
    whole = planned[0].job.spec
    keys = {
        "anchor": {"anchor"}, "asked for the subject": {"question"}, "batch": {"train"},
        "stopped by the referee": {"train"}, "reward": {"reward"},
    }  # fmt: skip
    for one in planned[1:]:
        changed = {key for key in type(whole).model_fields if getattr(one.job.spec, key) != getattr(whole, key)}
        assert changed <= keys[one.setting.guard], one.setting


def test_the_plugins_of_the_settings_take_their_parameters(planned: list[Planned]) -> None:
    for name in ("both", "answer_likelihood"):
        (one,) = [one for one in planned if one.setting.name == name]
        check_plugins(one.job.spec)


def test_what_comes_to_the_same_spec_is_run_once(planned: list[Planned]) -> None:
    jobs = {one.job for one in planned}
    assert len({job.folder for job in jobs}) == len(jobs) < len(planned)
    assert all(a is b or a.spec != b.spec for a in jobs for b in jobs)


def test_all_batches_see_as_many_images(planned: list[Planned]) -> None:
    trains = [one.job.spec.train for one in planned if one.setting.guard == "batch"]
    assert [train.batch for train in trains] == [1, 4, 8]
    assert {train.batch * train.steps for train in trains} == {96}


def test_the_table_is_renewed_and_what_people_wrote_around_it_stays(tmp_path: Path) -> None:
    doc = tmp_path / "ablation.md"
    write(doc, ["| first |"], "8 images.")
    doc.write_text(doc.read_text() + "\nWhat it means: nothing.\n")
    write(doc, ["| second |"], "9 images.")
    text = doc.read_text()
    assert text.startswith("# What the guards do")
    assert text.count(BEGIN) == text.count(END) == 1
    assert "| second |" in text
    assert "| first |" not in text
    assert text.endswith("What it means: nothing.\n")
