"""The plan of the ablation: every setting is a valid spec, changes only its guard, and uses no held-out prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from bench_examples import finished
from run_examples import SPEC as RUN_SPEC
from run_examples import evaluation, measurement, score

from dualproc.resolve import check_plugins, load_spec
from dualproc.run import RunFolder
from dualproc.types import Score
from dualproc.wording import MISSING
from tools.ablation import BEGIN, END, FIRST_SEED, TASKS, Planned, _side_effect, plan, table, write

SPEC = Path(__file__).parents[1] / "specs" / "line_weight.yaml"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> list[Planned]:
    return plan(f"{SPEC}:thick", tmp_path_factory.getbasetemp(), seeds=2, overrides=["train.steps=24"])


def test_held_out_prompts_are_never_used(planned: list[Planned]) -> None:
    prompts = load_spec(SPEC, variant="thick").prompts
    for job in (job for one in planned for job in one.jobs):
        split = job.spec.prompts
        assert len(split.eval) >= 4
        assert not set(split.train) & set(split.eval)
        assert {*split.train, *split.eval} == set(prompts.train)


def test_every_setting_changes_only_its_guard(planned: list[Planned]) -> None:
    keys = {
        "anchor": "anchor", "cheaper anchor": "anchor", "subject question": "question", "paraphrases": "question",
        "reward": "reward",
    }  # fmt: skip
    for one in planned[1:]:
        for whole, job in zip(planned[0].jobs, one.jobs, strict=True):
            assert job.spec.train.seed == whole.spec.train.seed == job.seed
            fields = type(whole.spec).model_fields
            changed = {key for key in fields if getattr(job.spec, key) != getattr(whole.spec, key)}
            assert changed <= {keys.get(one.setting.guard, "train")}, one.setting


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_of_the_default_tasks_is_valid_and_has_the_value_asked_for(task: str, tmp_path: Path) -> None:
    planned = plan(task, tmp_path)
    assert len(planned) > 15
    value = task.partition("=")[2].partition(":")[0]
    for one in planned:
        (job,) = one.jobs
        check_plugins(job.spec)
        assert job.seed == FIRST_SEED
        assert not value or value in job.overrides[0]


def test_only_the_guards_asked_for_are_measured_and_the_unchanged_spec(tmp_path: Path) -> None:
    planned = plan(f"{SPEC}:thick", tmp_path, only=["ema", "views"])
    assert {one.setting.guard for one in planned} == {"", "ema", "views"}


def test_settings_with_the_same_spec_share_their_fits(tmp_path: Path) -> None:
    """The spec *horizon* asks about the subject already."""
    planned = plan(TASKS[0], tmp_path, seeds=2)
    everything = [job for one in planned for job in one.jobs]
    jobs = set(everything)
    assert len({job.folder for job in jobs}) == len(jobs) < len(everything)
    assert all(a is b or a.spec != b.spec for a in jobs for b in jobs)


def test_all_batch_sizes_train_on_the_same_number_of_images(planned: list[Planned]) -> None:
    trains = [one.jobs[0].spec.train for one in planned if one.setting.guard == "batch"]
    assert [train.batch for train in trains] == [1, 8]
    assert {train.batch * train.steps for train in trains} == {96}


def test_rows_have_the_mean_of_the_seeds_and_settings_without_a_fit_have_none(tmp_path: Path) -> None:
    first, *_ = plan(f"{SPEC}:thick", tmp_path, seeds=2, overrides=["train.steps=4"])
    jobs = tuple(replace(job, folder=finished(tmp_path / str(job.seed))) for job in first.jobs)
    missing = replace(first, jobs=tuple(replace(job, folder=tmp_path / "none") for job in first.jobs))
    (line,) = table([replace(first, jobs=jobs), missing], {})
    assert line.startswith("| line_weight/thick |  | unchanged spec | ")
    (failed,) = table([missing], {missing.jobs[0]: "out of memory"})
    assert "failed: out of memory" in failed
    (failed,) = table([missing], dict.fromkeys(missing.jobs, "out of memory"))
    assert "failed: out of memory" in failed
    partly = replace(first, jobs=(jobs[0], missing.jobs[1]))
    (line,) = table([partly], {missing.jobs[1]: "out of memory"})
    assert line.startswith("| line_weight/thick |  | unchanged spec (1 of 2 fits) | ")
    assert "out of memory" not in line


def test_the_largest_side_effect_of_a_row_is_that_of_the_mean_over_its_fits(tmp_path: Path) -> None:
    def scores(*means: float) -> tuple[Score, ...]:
        pairs = zip(("tone lightness", "tone chroma"), means, strict=True)
        return tuple(score((mean - 1, mean + 1, mean - 1, mean + 1), name=name) for name, mean in pairs)

    for name, means in (("one", (3.0, 1.0)), ("two", (-3.0, 2.0))):
        with RunFolder.create(tmp_path / name, spec_text=RUN_SPEC, resolved_text=RUN_SPEC) as run:
            run.write_evaluation(evaluation(measurement(side_effects=scores(0, 0)), side_effects=scores(*means)))
    assert _side_effect([tmp_path / "one"]) == "lightness +3.0"
    assert _side_effect([tmp_path / "one", tmp_path / "two"]) == "chroma +1.5"
    assert _side_effect([]) == MISSING


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
