"""The engine: the loop, what it leaves behind, and that it can be stopped and continued."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dualproc import Engine, TaskSpec
from dualproc.engine import overlay as overlaying
from dualproc.engine.evaluate import held_out
from dualproc.engine.reload import load_engine, load_generator
from dualproc.engine.seeds import SPAN
from dualproc.errors import DualprocError, RunError, SpecError
from dualproc.plugins.visual_prompts.line import Line
from dualproc.run import RunFolder
from dualproc.spec import VisualPromptSpec, spec_from_dict
from dualproc.types import StepRecord

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


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four steps."""
    return Engine(make_spec()).fit(tmp_path_factory.mktemp("runs") / "whole").run


def test_a_fit_leaves_a_whole_run_behind(done: Path) -> None:
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


def test_the_lora_of_an_interrupted_and_resumed_run_is_that_of_a_whole_one(done: Path, tmp_path: Path) -> None:
    class Interrupt:
        def step(self, record: StepRecord, total: int) -> None:
            if record.step == 3:
                os.kill(os.getpid(), signal.SIGINT)

        def ending(self) -> None: ...

        def images(self, done: int, total: int) -> None: ...

    before = signal.getsignal(signal.SIGINT)
    first = Engine(make_spec()).fit(tmp_path / "run", progress=Interrupt())
    assert first.steps == 3
    assert first.stopped == "interrupted after step 3"
    assert (first.run / LORA).exists()
    assert signal.getsignal(signal.SIGINT) is before
    second = Engine(make_spec()).fit(tmp_path / "run", resume=True)
    assert second.steps == 4
    assert second.stopped is None
    assert (second.run / LORA).read_bytes() == (done / LORA).read_bytes()
    assert [record.step for record in RunFolder.open(second.run).metrics()] == [1, 2, 3, 4]


def test_the_model_card_says_how_to_use_it(done: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (done / "README.md").read_text(), flags=re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(done)), scope)
    assert scope["image"].size == (64, 64)


def test_a_finished_run_is_not_overwritten_unasked(done: Path) -> None:
    kept = (done / LORA).read_bytes()
    with pytest.raises(RunError, match="already holds a run"):
        Engine(make_spec()).fit(done)
    assert (done / LORA).read_bytes() == kept


def test_a_run_is_read_back_as_it_was(done: Path) -> None:
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


def test_steps_train() -> None:
    """On one prompt and one seed, the reward of the same image rises and the weights outside the LoRA stay."""
    spec = make_spec(train={"steps": 8, "batch": 1, "lr": 1e-3})
    engine = Engine(spec)
    frozen = {name: p.clone() for name, p in engine.generator.adapter_module.named_parameters() if not p.requires_grad}

    def reward() -> float:
        prompt = engine.prompts[0]
        with torch.no_grad():
            images = engine.judge_view(engine.generator.sample([prompt.text] * 4, [1, 2, 3, 4]).images)
            answers = engine.judge.answer_log_likelihoods(images, engine.questions([prompt] * 4))
        return engine.reward(answers, engine.wanted).mean().item()

    before = reward()
    records = list(engine.steps())
    assert reward() > before + 0.1
    assert not any(record.skipped for record in records)
    now = dict(engine.generator.adapter_module.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_the_loop_goes_where_it_went(done: Path) -> None:
    """Recorded with the shipped weights: a change here is a change of the method, of the models or of a library."""
    records = RunFolder.open(done).metrics()
    assert [record.loss for record in records] == pytest.approx([1.0871, -0.3484, 0.6138, 1.7537], rel=0.02, abs=0.01)
    assert [record.reward for record in records] == pytest.approx(
        [-1.0482, 0.3943, -0.5712, -1.7181], rel=0.02, abs=0.01
    )
    assert [record.anchor for record in records] == pytest.approx([0.03887, 0.04608, 0.04273, 0.03552], rel=0.02)
    assert [record.grad_norm for record in records] == pytest.approx([138.1, 122.4, 137.8, 97.4], rel=0.05)


def test_the_same_spec_takes_the_same_steps() -> None:
    one, two = (list(Engine(make_spec(train={"steps": 2, "batch": 2})).steps()) for _ in range(2))
    assert [(r.loss, r.anchor, r.grad_norm) for r in one] == [(r.loss, r.anchor, r.grad_norm) for r in two]
    other = next(Engine(make_spec(train={"steps": 2, "batch": 2, "seed": 1})).steps())
    assert other.loss != one[0].loss


def test_several_anchors_add_up_to_their_part_of_the_loss() -> None:
    """A step of a fresh LoRA: the images are the base's, so `base_image` costs nothing yet."""
    denoise, near = {"type": "base_denoise", "weight": 2.0}, {"type": "base_image", "weight": 3.0}
    train = {"steps": 2, "batch": 2, "lr": 1e-2, "lora": {"rank": 2}}

    def records(anchor: Any) -> list[StepRecord]:
        return list(Engine(make_spec(anchor=anchor, train=train)).steps())

    one, two = records(denoise), records([denoise, near, {"type": "base_image", "weight": 0}])
    assert one[0].anchor == pytest.approx(two[0].anchor, rel=1e-5)
    assert two[1].anchor > 1.01 * one[1].anchor  # the LoRA has moved
    for record in one + two:
        assert record.loss == pytest.approx(record.anchor - record.reward, rel=1e-4, abs=1e-5)


def test_a_step_without_a_number_is_skipped_and_several_end_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(make_spec(train={"steps": 9, "batch": 1, "max_skipped": 2, "lora": {"rank": 2}}))
    kept = [weight.clone() for weight in engine.weights]
    monkeypatch.setattr(engine, "reward", lambda answers, _: answers.log_likelihoods.sum((1, 2)) * float("nan"))
    steps = engine.steps()
    records = [next(steps), next(steps)]
    with pytest.raises(DualprocError, match="not a number in 2 steps in a row"):
        next(steps)
    assert all(record.skipped for record in records)
    assert all(torch.equal(a, b) for a, b in zip(kept, engine.weights, strict=True))


def test_a_fit_that_ended_without_numbers_does_not_succeed_when_it_is_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    train = {"steps": 2, "batch": 1, "max_skipped": 2, "lora": {"rank": 2}}
    engine, again = Engine(make_spec(train=train)), Engine(make_spec(train=train))
    monkeypatch.setattr(engine, "reward", lambda answers, _: answers.log_likelihoods.sum((1, 2)) * float("nan"))
    for one in (engine, again):
        with pytest.raises(DualprocError, match="not a number in 2 steps in a row, up to step 2"):
            list(one.steps())
        again.restore(*engine.state())


@pytest.mark.parametrize("part", ["judge", "reward"])
def test_a_plugin_that_cuts_the_gradient_is_named(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    engine = Engine(make_spec(train={"steps": 1, "batch": 1, "lora": {"rank": 2}}))
    if part == "reward":
        monkeypatch.setattr(engine, "reward", lambda answers, _: answers.log_likelihoods.detach().sum((1, 2)))
    else:
        whole = engine.judge.answer_log_likelihoods
        monkeypatch.setattr(engine.judge, "answer_log_likelihoods", lambda seen, asked: whole(seen.detach(), asked))
    with pytest.raises(DualprocError, match=f"no gradient reaches .* of the {part} plugin"):
        engine.step()


def test_the_referee_stops_a_fit_that_no_longer_improves(tmp_path: Path) -> None:
    stop = {"patience": 2, "min_delta": 1.0}  # no look can improve by this much
    watch = {"every": 1, "images": 2}
    spec = make_spec(train={"steps": 9, "batch": 1, "watch": watch, "stop": stop, "lora": {"rank": 2}})
    result = Engine(spec).fit(tmp_path / "run")
    assert result.steps == 3
    assert result.stopped is not None
    assert "no improvement since step 1" in result.stopped
    for record in RunFolder.open(result.run).metrics():
        assert record.referee is not None
        assert record.hack_meter is not None
    kept = load_file(result.run / LORA)
    again = Engine(spec).fit(tmp_path / "run", resume=True)  # it stays stopped, at the same LoRA
    assert again.steps == 3
    assert again.stopped == result.stopped
    assert all(torch.equal(value, kept[name]) for name, value in load_file(again.run / LORA).items())


def test_held_out_images_are_none_that_were_trained_on() -> None:
    engine = Engine(make_spec())
    prompts, seeds = held_out(engine)
    assert {prompt.text for prompt in prompts} == {"a cartoon of an owl", "a cartoon of a house"}
    assert len(set(seeds)) == 4
    assert min(seeds) >= SPAN
    assert not {prompt.text for prompt in engine.prompts} & {prompt.text for prompt in prompts}


def test_wrong_parameters_are_found_before_any_model_is_loaded() -> None:
    spec = make_spec(generator={"type": "diffusers", "model": "/no/such", "stepz": 3}, scorers=[{"type": "line_wait"}])
    with pytest.raises(SpecError) as caught:
        Engine(spec)
    message = str(caught.value)
    assert "stepz" in message
    assert "line_weight" in message


def test_the_visual_prompt_is_laid_over_differentiably() -> None:
    line = Line(Line.Params.model_validate({"from": [0, 0.5], "to": [1, 0.5], "width": 0.25, "color": "red"}))
    images = torch.full((3, 3, 32, 32), 0.25, requires_grad=True)
    spec = VisualPromptSpec.model_validate({"layers": [{"type": "line"}], "jitter": {"y": [-0.3, 0.3]}})
    seen = overlaying.overlay(images, spec, [line])
    assert seen[0, :, 16, 16].tolist() == [1, 0, 0]
    torch.testing.assert_close(seen[:, :, 2], images[:, :, 2])
    seen.sum().backward()
    assert images.grad is not None
    assert images.grad[0, 0, 16, 16] == 0  # hidden by the line
    assert images.grad[0, 0, 2, 2] == 1
    import random

    moved = overlaying.overlay(images, spec, [line], random.Random(0))
    rows = {tuple((one[0, :, 5] > 0.9).nonzero().flatten().tolist()) for one in moved}
    assert len(rows) == 3  # every image has its own place
    half = overlaying.overlay(images, spec.model_copy(update={"blend": "alpha", "opacity": 0.5}), [line])
    assert half[0, :, 16, 16].tolist() == [0.625, 0.125, 0.125]
