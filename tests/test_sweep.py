"""`dp bench --seeds` and `dp sweep`: several seeds and settings, their table, and the best setting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_examples import outcome, row, save_lora
from run_examples import evaluation, score
from test_cli_run import SPEC, dp

from dualproc.cli.bench_jobs import plan_jobs
from dualproc.cli.sweep_jobs import grid_values, plan_sweep
from dualproc.errors import DualprocError
from dualproc.report.bench import BenchRow, footer, reached, table
from dualproc.report.sweep import conclusions, ranking, render_sweep
from dualproc.run import RunFolder, portable

REFEREE = "referee: {type: tiny-referee}\nscorers: [{type: horizon, target: 0.3}]\n"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The spec `short` with the variants `high` and `low`, a referee and a scorer."""
    file = tmp_path / "short.yaml"
    file.write_text(SPEC + REFEREE)
    return file


def seeded(folder: Path, seed: int, share: float, **more: str) -> BenchRow:
    """The row of a seed whose trained images have this share on target."""
    values = tuple(0.042 if index < 4 * share else 0.9 for index in range(4))
    return replace(row(folder / str(seed), scores=(score(values),)), seed=seed, **more)  # type: ignore[arg-type]


def test_mean_and_range_over_seeds_are_in_one_row_which_shows_how_many_are_on_target(tmp_path: Path) -> None:
    rows = [seeded(tmp_path, 0, 1.0), seeded(tmp_path, 1, 0.5), seeded(tmp_path, 2, 0.75)]
    headings, line = table(rows)
    shown = dict(zip(headings, line, strict=True))
    assert shown["on target"] == "25% -> 75% (50% to 100%)"
    assert shown["judge - on target"] == "+0.00 (-0.25 to +0.25)"
    assert shown["judge"] == "0.300 -> 0.750"  # no range where all seeds agree
    assert shown["on target >= 90%"] == "1 of 3 seeds"


def test_control_that_works_on_one_seed_in_two_is_named_and_reaches_no_target(tmp_path: Path) -> None:
    rows = [seeded(tmp_path, 0, 1.0), seeded(tmp_path, 1, 0.25)]
    assert reached(rows)["on target >= 90%"] == 0
    assert reached(rows)["kept >= 95%"] == 1
    lines = footer(rows, planned=2, command="dp bench --seeds 2")
    assert lines[0].startswith("Targets reached by every seed, out of 1 variant: on target >= 90%: 0;")
    assert "Reached by some seeds only: line_weight/thick on target >= 90%: 1 of 2 seeds" in lines[1]


def test_failed_seed_is_counted_and_the_others_are_shown(tmp_path: Path) -> None:
    rows = [seeded(tmp_path, 0, 1.0), BenchRow("line_weight", "thick", "1", error="oh", seed=1)]
    headings, line = table(rows)
    assert dict(zip(headings, line, strict=True))["on target >= 90%"] == "1 of 2 seeds (1 failed)"
    assert reached(rows)["on target >= 90%"] == 0


def test_bench_adds_the_next_seeds_beside_the_run_of_the_spec_s_own_seed(spec: Path, tmp_path: Path) -> None:
    planned = plan_jobs([str(spec)], ("train.seed=5",), None, tmp_path, seeds=2)
    assert [(job.folder.relative_to(tmp_path).as_posix(), job.seed, job.spec.train.seed) for job in planned] == [
        ("short/high", 5, 5), ("short/high-seed6", 6, 6), ("short/low", 5, 5), ("short/low-seed6", 6, 6),
    ]  # fmt: skip
    assert "train.seed=6" in planned[1].command()
    assert planned[1].label == "short/high, seed 6"


def test_grid_values_are_lists_or_ranges() -> None:
    assert grid_values(["train.lr=5e-5, 1e-4", "train.seed=0..2"]) == {
        "train.lr": ["5e-5", "1e-4"], "train.seed": ["0", "1", "2"],
    }  # fmt: skip
    assert grid_values(['train.lora.targets=["a","b"],["c"]'])["train.lora.targets"] == ['["a","b"]', '["c"]']


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["train.lr"], "expected --grid KEY=VALUES"),
        (["train.lr="], "expected --grid KEY=VALUES"),
        (["train.lr=1e-4,"], "expected --grid KEY=VALUES"),
        (["train.lr=1e-4", "train.lr=1e-5"], "is given twice"),
        (["train.seed=0..99999"], "at most 1,000"),
        (["train.seed=0..99", "train.steps=1..99"], "at most 1,000"),
    ],
)
def test_mistakes_in_a_grid_are_named(grid: list[str], message: str) -> None:
    with pytest.raises(DualprocError, match=message):
        grid_values(grid)


def test_every_combination_has_a_folder_of_its_own(spec: Path, tmp_path: Path) -> None:
    grid = ["train.lr=5e-5,1e-4", "train.seed=0..1"]
    planned = plan_sweep(str(spec), grid, (), "high", tmp_path)
    assert [job.folder.relative_to(tmp_path).as_posix() for job in planned] == [
        f"short/high/train.lr={lr}/seed-{seed}" for lr in ("5e-5", "1e-4") for seed in (0, 1)
    ]
    assert [(job.setting, job.seed) for job in planned[:2]] == [("train.lr=5e-5", 0), ("train.lr=5e-5", 1)]
    assert planned[3].spec.train.lr == 1e-4
    odd = plan_sweep(str(spec), ['prompts.eval=["an owl"],["an/owl"]'], (), "high", tmp_path)
    assert len({job.folder for job in odd}) == 2


def sweep_rows(folder: Path) -> list[BenchRow]:
    shares = {"train.lr=5e-5": (0.5, 0.75), "train.lr=1e-4": (1.0, 0.75)}
    return [
        seeded(folder / setting, seed, share, setting=setting)
        for setting, both in shares.items()
        for seed, share in enumerate(both)
    ]


def test_best_setting_has_the_highest_mean_and_overlapping_ranges_are_named(tmp_path: Path) -> None:
    rows = sweep_rows(tmp_path)
    first, more, caution = conclusions(rows, "on target", planned=4)
    assert first == "Best by on target: line_weight/thick train.lr=1e-4 (88%, 75% to 100% over 2 seeds)."
    assert "More seeds are needed to tell it from 1 setting of overlapping range" in more
    assert "chosen on the held-out images" in caution
    assert conclusions(rows, None, planned=4) == conclusions(rows, "on target", planned=5) == []
    rows[2] = replace(rows[2], result=None, error="oh")
    assert [one.label for one in ranking(rows, "on target")] == ["line_weight/thick train.lr=5e-5"]


def test_page_has_every_setting_and_loads_nothing(tmp_path: Path) -> None:
    page = render_sweep(sweep_rows(tmp_path), by="on target", planned=4, command="dp sweep <x>")
    assert page.count("<circle") == 4
    assert "25% → 62% (50% to 75%)" in page
    assert "dp sweep &lt;x&gt;" in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "judge"], "the judge cannot choose the best setting"),
        (["--by", "beauty"], "`beauty` is not a criterion"),
        (["--by", "kept"], "the spec does not measure `kept`"),
        (["--grid", "train.stepz=3"], "error: 1 mistake in the spec"),
        (["--grid", "train.batch=0,-1"], "error: 2 mistakes in the spec"),
    ],
)
def test_mistakes_are_reported_before_the_first_fit(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    command = ("sweep", spec, "--variant", "high", "--grid", "train.lr=1e-4", "--out", tmp_path / "out", *arguments)
    code, _, err = dp(capsys, *command)
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_finished_fits_of_a_sweep_are_kept_and_a_table_and_a_page_are_written(
    capsys: pytest.CaptureFixture[str], spec: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    grid = ("train.lr=5e-5,1e-4", "train.seed=0..1")
    for job in plan_sweep(str(spec), grid, (), "high", out):
        text = portable(job.spec, job.folder).text
        with RunFolder.create(job.folder, spec_text=SPEC, resolved_text=text) as run:
            run.write_evaluation(evaluation())
            save_lora(run)
            run.write_outcome(outcome())
    options = [word for one in grid for word in ("--grid", one)]
    code, printed, _ = dp(capsys, "sweep", spec, "--variant", "high", *options, "--by", "referee", "--out", out)
    assert code == 0
    assert "already finished: 4 of 4 fits" in printed
    assert "Best by referee: short/high train.lr=5e-5 (70%" in printed
    rows = json.loads((out / "sweep.json").read_text())["rows"]
    assert [(one["setting"], one["seed"]) for one in rows] == [
        (f"train.lr={lr}", seed) for lr in ("5e-5", "1e-4") for seed in (0, 1)
    ]
    assert "| setting |" in (out / "sweep.md").read_text()
    assert (out / "sweep.html").exists()
