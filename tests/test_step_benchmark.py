"""benchmarks/step.py: the ways to run a training step that it compares."""

from __future__ import annotations

from benchmark_modules import load_benchmark

from dualproc import Engine


def test_every_way_to_run_a_training_step_runs() -> None:
    step = load_benchmark("step")
    engine = Engine(step.spec_of("specs/line_weight.yaml", "thick", 1, anchored=True, models=None))
    step.bare(engine)()
    before = [weight.detach().clone() for weight in engine.weights]
    step.paper(engine)()
    assert any(not weight.equal(old) for weight, old in zip(engine.weights, before, strict=True))
