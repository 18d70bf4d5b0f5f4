"""benchmarks/scorers.py: its scenes have the truth that it claims, and tuning never sees what is reported."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from benchmark_modules import load_benchmark

from dualproc.types import ScoreContext


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("scorers")


def test_on_flat_surfaces_every_scorer_finds_the_truth(benchmark: ModuleType) -> None:
    for name in benchmark.SCENES:
        case = next(benchmark.cases(name, 160, 1, tune=False))
        assert case.kind == "flat"
        value = case.scorer.score(case.image[None], ScoreContext(prompts=(), seeds=())).item()
        assert benchmark.is_right(case, value), name


def test_scenes_for_tuning_and_for_the_report_differ(benchmark: ModuleType) -> None:
    assert not set(benchmark.PHOTOS[True]) & set(benchmark.PHOTOS[False])
    assert not set(benchmark.EMPTY[True]) & set(benchmark.EMPTY[False])
    for name in benchmark.SCENES:
        ours, theirs = (next(benchmark.cases(name, 64, 1, tune=tune)) for tune in (True, False))
        assert not torch.equal(ours.image, theirs.image)


def test_a_cell_counts_scenes_without_a_value(benchmark: ModuleType) -> None:
    case = benchmark.Case("flat", torch.zeros(3, 8, 8), benchmark.Horizon(benchmark.Horizon.Params()), 0.5)
    assert benchmark.cell("flat", [(case, 0.52), (case, 0.6), (case, math.nan), (case, 0.5)]) == "75%, 0.02, 67%"
    assert benchmark.cell("flat", [(case, math.nan)]) == "0%"
    assert benchmark.cell(benchmark.NOTHING, [(case, 0.5), (case, math.nan)]) == "50%"
