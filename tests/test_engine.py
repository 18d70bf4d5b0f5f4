"""The engine: the training loop, the run folder of a fit, and fits that are interrupted, resumed or stopped."""

from __future__ import annotations

import functools
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stub_plugins import BrightnessJudge, StubGenerator, stubs

from dualproc import Engine, TaskSpec, resolve
from dualproc.engine import FitResult
from dualproc.engine.evaluate import held_out
from dualproc.engine.overlay import draw_canvas, draw_shift, overlay
from dualproc.engine.reload import load_engine, load_generator
from dualproc.engine.seeds import SPAN
from dualproc.errors import DualprocError, PluginError, RunError, SpecError
from dualproc.plugins.anchors.base_denoise import BaseDenoise
from dualproc.plugins.visual_prompts.line import Line
from dualproc.run import RunFolder
from dualproc.spec import PluginRef, VisualPromptSpec, spec_from_dict
from dualproc.types import Answers, Sample, StepRecord

LORA = "pytorch_lora_weights.safetensors"


def make_spec(**changes: Any) -> TaskSpec:
    data: dict[str, Any] = {
        "name": "test",
        "prompts": {
            "template": "a cartoon of {subject}",
            "train": ["a cat", "a dog", "a tree"],
            "eval": ["an owl", "a house"],
        },
        "question": {"template": "Does the line weight of the image match the red line overlaid at the bottom?"},
        "preserve": {"template": "Is this a drawing of {subject}?"},
        "visual_prompt": {
            "jitter": {"y": [-0.1, 0.0]},
            "layers": [{"type": "line", "from": [0.1, 0.9], "to": [0.9, 0.9], "width": 0.04}],
        },
        "referee": {"type": "tiny-referee"},
        "scorers": [{"type": "line_weight", "target": 0.04}],
        "anchor": {"type": "base_denoise", "weight": 1.0},
        "train": {"steps": 4, "batch": 2, "checkpoint_every": 2, "lora": {"rank": 4}},
        "evaluation": {"seeds": 2},
    }
    return spec_from_dict(data | changes)


@functools.cache
def loaded_judge(name: str) -> Any:
    return resolve.build("judges", PluginRef(type=name))


def build(kind: str, ref: PluginRef) -> Any:
    """A live plugin; judges, which no training step changes, are loaded once for all tests."""
    return loaded_judge(ref.type) if kind == "judges" else resolve.build(kind, ref)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    return Engine(make_spec(), build=build).fit(tmp_path_factory.mktemp("runs") / "whole").run


class InterruptAfterStep3:
    """Progress of a fit that sends Ctrl+C to this process after step 3."""

    def step(self, record: StepRecord, total: int) -> None:
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    def ending(self) -> None: ...

    def images(self, done: int, total: int) -> None: ...


WITHOUT_EVALUATION = make_spec(referee=None, preserve=None, scorers=[], evaluation={"seeds": 1})
"""The spec of `done`, without what does not affect the LoRA."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> FitResult:
    """A fit with newly loaded models, interrupted after three of four steps."""
    before = signal.getsignal(signal.SIGINT)
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    result = Engine(WITHOUT_EVALUATION).fit(folder, progress=InterruptAfterStep3())
    assert signal.getsignal(signal.SIGINT) is before
    return result


# --- the run folder ---------------------------------------------------------------------------------------------


def test_fit_writes_a_complete_run(done: Path) -> None:
    names = {
        "spec.yaml", "spec.resolved.yaml", "env.json", "metrics.jsonl", "evaluation.json", "README.md", "report.html",
        "samples/before_after.png", "checkpoints/checkpoint-4", LORA,
    }  # fmt: skip
    assert {name for name in names if (done / name).exists()} == names
    run = RunFolder.open(done)
    assert [record.step for record in run.metrics()] == [1, 2, 3, 4]
    evaluation = run.read_evaluation()
    assert evaluation is not None
    assert len(evaluation.seeds) == 4
    assert min(evaluation.seeds) >= SPAN
    for measured in (evaluation.base, evaluation.trained):
        assert measured.hack_meter > 0
        assert measured.referee is not None
        assert measured.preserved is not None
        (score,) = measured.scores
        assert len(score.values) == 4
        assert (score.target, score.accepted) == (0.04, pytest.approx((0.028, 0.052)))
        assert score.on_target == sum(0.028 <= value <= 0.052 for value in score.values) / 4


def test_code_of_the_model_card_draws_an_image(done: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (done / "README.md").read_text(), flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(done)), scope)
    assert scope["image"].size == (64, 64)


def test_finished_run_is_overwritten_only_on_request(done: Path) -> None:
    kept = (done / LORA).read_bytes()
    with pytest.raises(RunError, match="already has a run"):
        Engine(make_spec(), build=stubs()).fit(done)
    assert (done / LORA).read_bytes() == kept


def test_reloaded_run_draws_and_scores_the_same_images(done: Path) -> None:
    run, engine = load_engine(done)
    prompts, seeds = held_out(engine)
    kept = run.read_evaluation()
    assert kept is not None
    texts = [prompt.text for prompt in prompts]
    trained = engine.generator.sample(texts, seeds).images
    again = [engine.evaluators.scorers[0][1].score(trained, None)]  # type: ignore[arg-type]
    torch.testing.assert_close(again[0], torch.tensor(kept.trained.scores[0].values), atol=1e-5, rtol=0, equal_nan=True)
    alone = load_generator(done).sample(texts, seeds).images
    torch.testing.assert_close(alone, trained, atol=1e-5, rtol=0)


# --- interrupted, resumed and stopped fits ----------------------------------------------------------------------


def test_interrupted_fit_ends_after_the_current_step(done: Path, interrupted: FitResult) -> None:
    assert interrupted.outcome.steps == 3
    assert interrupted.outcome.interrupted
    assert interrupted.outcome.stopped == "interrupted after step 3"
    assert load_file(interrupted.run / LORA).keys() == load_file(done / LORA).keys()


def test_interrupted_and_resumed_fit_gives_the_same_lora_as_an_uninterrupted_one(
    done: Path, interrupted: FitResult
) -> None:
    before = (interrupted.run / LORA).read_bytes()
    resumed = Engine(WITHOUT_EVALUATION, build=build).fit(interrupted.run, resume=True)
    assert resumed.outcome.steps == 4
    assert resumed.outcome.stopped is None
    ours, theirs = load_file(resumed.run / LORA), load_file(done / LORA)  # the headers name different specs
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert (resumed.run / LORA).read_bytes() != before
    assert [record.step for record in RunFolder.open(resumed.run).metrics()] == [1, 2, 3, 4]


def test_fit_stops_at_the_best_lora_when_the_referee_sees_no_improvement(tmp_path: Path) -> None:
    stop = {"patience": 2, "min_delta": 1.0}  # no check can improve by this much
    watch = {"every": 1, "images": 2}
    spec = make_spec(train={"steps": 9, "batch": 1, "watch": watch, "stop": stop, "lora": {"rank": 2}})
    engine = Engine(spec, build=stubs())
    loras = []

    class RecordLora(InterruptAfterStep3):
        def step(self, record: StepRecord, total: int) -> None:
            loras.append([weight.detach().clone() for weight in engine.weights])

    result = engine.fit(tmp_path / "run", progress=RecordLora())
    assert result.outcome.steps == 3
    assert result.outcome.lora_step == 1
    assert result.outcome.stopped is not None
    assert "no improvement by the referee since step 1" in result.outcome.stopped
    for record in RunFolder.open(result.run).metrics():
        assert record.referee is not None
        assert record.hack_meter is not None
    assert all(torch.equal(weight, best) for weight, best in zip(engine.weights, loras[0], strict=True))
    assert any(not torch.equal(weight, last) for weight, last in zip(engine.weights, loras[2], strict=True))
    kept = load_file(result.run / LORA)
    again = Engine(spec, build=stubs()).fit(tmp_path / "run", resume=True)  # stays stopped, with the same LoRA
    assert again.outcome.steps == 3
    assert again.outcome.stopped == result.outcome.stopped
    assert all(torch.equal(value, kept[name]) for name, value in load_file(again.run / LORA).items())


def test_answers_that_the_judge_cannot_tell_apart_or_add_are_refused_when_it_is_loaded(tmp_path: Path) -> None:
    same = {"template": "Is it red?", "candidates": ["Yes", "yes"]}
    for role in ("question", "preserve"):  # the referee alone answers the `preserve` question
        with pytest.raises(PluginError, match="reads the candidates 'Yes' and 'yes' as the same tokens"):
            Engine(make_spec(**{role: same}), build=build).fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    wordings = {"template": "Is it red?", "answer": ["Yes", "yes", "red"]}
    with pytest.raises(PluginError, match=r"BrightnessJudge does not support several wordings.*\n.*`answer: Yes`"):
        Engine(make_spec(question=wordings), build=stubs())
    both = [{"type": "tiny"}, {"type": "tiny-referee"}]
    engine = Engine(make_spec(question=wordings, judge=both, train={"steps": 1, "batch": 1}), build=build)
    assert engine.step().grad_norm > 0
    with pytest.raises(PluginError, match="as the same tokens"):
        Engine(make_spec(question=same, judge=both), build=build)


# --- the training step ------------------------------------------------------------------------------------------


def test_training_raises_the_reward_and_changes_only_the_lora() -> None:
    engine = Engine(make_spec(train={"steps": 4, "batch": 1, "lr": 1e-3}), build=build)
    frozen = {name: p.clone() for name, p in engine.generator.adapter_module.named_parameters() if not p.requires_grad}

    def reward() -> float:
        prompt = engine.prompts[0]
        with torch.no_grad():
            images = engine.judge_view(engine.generator.sample([prompt.text] * 2, [1, 2]).images)
            answers = engine.judge.answer_log_likelihoods(images, engine.questions([prompt] * 2))
        return engine.reward(answers, engine.wanted).mean().item()

    before = reward()
    records = list(engine.steps())
    assert reward() > before + 1
    assert not any(record.skipped for record in records)
    now = dict(engine.generator.adapter_module.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_training_steps_match_recorded_numbers(done: Path) -> None:
    """Recorded with the shipped weights: a difference means that the method, the models or a library has changed."""
    records = RunFolder.open(done).metrics()
    assert [record.loss for record in records] == pytest.approx([1.5097, -0.0440, 1.1651, 1.9629], rel=0.02, abs=0.01)
    assert [record.reward for record in records] == pytest.approx(
        [-1.4709, 0.0900, -1.1224, -1.9268], rel=0.02, abs=0.01
    )
    assert [record.anchor for record in records] == pytest.approx([0.03887, 0.04601, 0.04262, 0.03609], rel=0.02)
    assert [record.grad_norm for record in records] == pytest.approx([98.77, 76.15, 106.2, 101.3], rel=0.05)


def test_steps_are_the_same_for_the_same_spec(done: Path, interrupted: FitResult) -> None:
    def numbers(run: Path) -> list[tuple[float, ...]]:
        return [(one.loss, one.anchor, one.grad_norm) for one in RunFolder.open(run).metrics()[:3]]

    assert len(numbers(done)) == 3
    assert numbers(interrupted.run) == numbers(done)


def test_steps_differ_for_another_seed() -> None:
    one, other = (Engine(make_spec(train={"steps": 1, "batch": 2, "seed": seed}), build=stubs()) for seed in (0, 1))
    assert one.step().loss != other.step().loss


def test_with_a_share_an_anchor_is_left_out_of_steps_and_counts_more_in_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a learning rate of nearly 0, a step has the same images in both fits, so the same penalty."""
    calls, real = [], BaseDenoise.penalty

    def counted(*given: Any) -> torch.Tensor:
        calls.append(given)
        return real(*given)

    monkeypatch.setattr(BaseDenoise, "penalty", counted)

    def penalties(**anchor: Any) -> list[float]:
        ref = {"type": "base_denoise", "weight": 2.0, "low": 0.3, "high": 0.3, **anchor}
        train = {"steps": 24, "batch": 1, "lr": 1e-12, "lora": {"rank": 2}}
        return [one.anchor for one in Engine(make_spec(anchor=ref, train=train), build=stubs()).steps()]

    always = penalties()
    calls.clear()
    half = penalties(share=0.5)
    added = [step for step, penalty in enumerate(half) if penalty]
    assert len(calls) == len(added)  # in the other steps, it takes no time
    assert 6 < len(added) < 18
    assert [half[step] for step in added] == pytest.approx([2 * always[step] for step in added], rel=0.01)


@pytest.mark.parametrize("share", [0, -0.5, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(SpecError, match="share"):
        make_spec(anchor={"type": "base_denoise", "share": share})


def test_loss_is_the_sum_of_weighted_anchors_minus_the_reward() -> None:
    """In the first step, the LoRA changes nothing, so `base_image` adds nothing."""
    denoise, near = {"type": "base_denoise", "weight": 2.0}, {"type": "base_image", "weight": 3.0}
    train = {"steps": 2, "batch": 2, "lr": 1e-2, "lora": {"rank": 2}}

    def records(anchor: Any) -> list[StepRecord]:
        return list(Engine(make_spec(anchor=anchor, train=train), build=stubs()).steps())

    one, two = records(denoise), records([denoise, near, {"type": "base_image", "weight": 0}])
    assert one[0].anchor > 0
    assert one[0].anchor == pytest.approx(two[0].anchor, rel=1e-5)
    assert two[1].anchor > 1.0001 * one[1].anchor  # the LoRA has changed the images
    for record in one + two:
        assert record.loss == pytest.approx(record.anchor - record.reward, rel=1e-4, abs=1e-5)


def nan_reward(answers: Answers, _: Any) -> torch.Tensor:
    return answers.log_likelihoods.sum((1, 2)) * float("nan")


def test_steps_that_are_not_finite_are_skipped_and_several_in_a_row_end_the_fit() -> None:
    spec = make_spec(train={"steps": 9, "batch": 1, "max_skipped": 2, "lora": {"rank": 2}})
    engine = Engine(spec, build=stubs(rewards=nan_reward))
    kept = [weight.clone() for weight in engine.weights]
    steps = engine.steps()
    records = [next(steps), next(steps)]
    with pytest.raises(DualprocError, match="not finite in 2 steps in a row"):
        next(steps)
    assert all(record.skipped for record in records)
    assert all(torch.equal(a, b) for a, b in zip(kept, engine.weights, strict=True))


def test_fit_that_ended_without_finite_steps_fails_again_when_resumed() -> None:
    spec = make_spec(train={"steps": 2, "batch": 1, "max_skipped": 2, "lora": {"rank": 2}})
    engine, again = Engine(spec, build=stubs(rewards=nan_reward)), Engine(spec, build=stubs())
    for one in (engine, again):
        with pytest.raises(DualprocError, match="not finite in 2 steps in a row, up to step 2"):
            list(one.steps())
        again.restore(*engine.state())


class DetachedGenerator(StubGenerator):
    def sample(self, *args: Any, **kwargs: Any) -> Sample:
        made = super().sample(*args, **kwargs)
        return Sample(made.images.detach(), made.latents)


class DetachedJudge(BrightnessJudge):
    def answer_log_likelihoods(self, images: torch.Tensor, questions: Any) -> Answers:
        return super().answer_log_likelihoods(images.detach(), questions)


def detached_reward(answers: Answers, _: Any) -> torch.Tensor:
    return answers.log_likelihoods.detach().sum((1, 2))


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [("generators", DetachedGenerator), ("judges", DetachedJudge), ("rewards", lambda: detached_reward)],
    ids=["generator", "judge", "reward"],
)
def test_plugin_that_cuts_the_gradient_is_named(kind: str, plugin: Callable[[], Any]) -> None:
    engine = Engine(make_spec(train={"steps": 1, "batch": 1, "lora": {"rank": 2}}), build=stubs(**{kind: plugin()}))
    with pytest.raises(DualprocError, match=f"the {kind.removesuffix('s')} plugin returns .* without a gradient"):
        engine.step()


# --- prompts, parameters and the visual prompt ------------------------------------------------------------------


def test_held_out_prompts_and_seeds_are_never_trained_on() -> None:
    engine = Engine(make_spec(), build=stubs())
    prompts, seeds = held_out(engine)
    assert {prompt.text for prompt in prompts} == {"a cartoon of an owl", "a cartoon of a house"}
    assert len(set(seeds)) == 4
    assert min(seeds) >= SPAN
    assert not {prompt.text for prompt in engine.prompts} & {prompt.text for prompt in prompts}


def test_wrong_parameters_are_reported_before_any_model_is_loaded() -> None:
    spec = make_spec(generator={"type": "diffusers", "model": "/no/such", "stepz": 3}, scorers=[{"type": "line_wait"}])
    with pytest.raises(SpecError) as caught:
        Engine(spec)
    message = str(caught.value)
    assert "stepz" in message
    assert "line_weight" in message


def test_visual_prompt_is_differentiable_shifted_per_image_and_blended() -> None:
    line = Line(Line.Params.model_validate({"from": [0, 0.5], "to": [1, 0.5], "width": 0.25, "color": "red"}))
    images = torch.full((3, 3, 32, 32), 0.25, requires_grad=True)
    spec = VisualPromptSpec.model_validate({"layers": [{"type": "line"}], "jitter": {"y": [-0.3, 0.3]}})
    canvas = draw_canvas([line], 32, 32)
    seen = overlay(images, spec, canvas)
    assert seen[0, :, 16, 16].tolist() == [1, 0, 0]
    torch.testing.assert_close(seen[:, :, 2], images[:, :, 2])
    seen.sum().backward()
    assert images.grad is not None
    assert images.grad[0, 0, 16, 16] == 0  # hidden by the line
    assert images.grad[0, 0, 2, 2] == 1
    rng = random.Random(0)
    moved = overlay(images, spec, canvas, [draw_shift(spec, rng) for _ in images])
    rows = {tuple((one[0, :, 5] > 0.9).nonzero().flatten().tolist()) for one in moved}
    assert len(rows) == 3  # each image has its own shift
    half = overlay(images, spec.model_copy(update={"blend": "alpha", "opacity": 0.5}), canvas)
    assert half[0, :, 16, 16].tolist() == [0.625, 0.125, 0.125]
