"""benchmarks/failing_nodes.py: what it simulates adds up."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest
from benchmark_modules import load_benchmark


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("failing_nodes")


def test_without_failures_the_makespan_is_the_ideal_and_nothing_is_lost(benchmark: ModuleType) -> None:
    setup = benchmark.Setup(failures_per_hour=0.0, gpus=16)
    outcome = benchmark.simulate(setup, 0)
    assert outcome.makespan == pytest.approx(setup.ideal) == pytest.approx(10 * setup.duration)
    assert outcome.busy == pytest.approx(outcome.useful)


def test_a_restart_continues_from_the_last_checkpoint(benchmark: ModuleType) -> None:
    setup = benchmark.Setup(steps=100, step=2.0, loading=10.0, checkpoint_every=25)
    assert [setup.saved(0, elapsed) for elapsed in (5, 59.9, 60, 119, 209, 210, 500)] == [0, 0, 25, 50, 75, 100, 100]
    assert setup.saved(50, 10 + 2 * 24) == 50  # 74 steps: the checkpoint is still that of step 50
    assert setup.saved(50, 10 + 2 * 25) == 75
    assert replace(setup, checkpoint_every=0).saved(0, 209) == 0


def test_fewer_checkpoints_lose_more_and_every_fit_ends(benchmark: ModuleType) -> None:
    often, never = (benchmark.Setup(checkpoint_every=every) for every in (25, 0))
    for seed in range(3):
        first, second = benchmark.simulate(often, seed), benchmark.simulate(never, seed)
        assert often.ideal < first.makespan < second.makespan
        assert first.useful < first.busy < second.busy
        # With one node, the running time and the time without a node are the whole makespan, but for the last fits.
        away = first.failures * often.return_after
        assert first.makespan >= first.busy / often.gpus + away - often.return_after
        assert first.restarts >= first.most_restarts > 0
