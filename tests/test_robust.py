"""The worst case near images and weights, and the average of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stub_plugins import stubs

from dualproc import Engine, TaskSpec
from dualproc.engine.average import Average
from dualproc.engine.robust import worst_images, worst_weights
from dualproc.spec import spec_from_dict

LORA = "pytorch_lora_weights.safetensors"


def make_spec(**train: Any) -> TaskSpec:
    return spec_from_dict(
        {
            "name": "test",
            "prompts": {"train": ["a cat", "a dog"], "eval": ["an owl"]},
            "question": {"template": "Is it bright?"},
            "train": {"steps": 6, "batch": 2, "lr": 1e-2, "lora": {"rank": 2}, **train},
            "evaluation": {"seeds": 2, "side_effects": []},
        }
    )


def peak(images: torch.Tensor) -> torch.Tensor:
    """[B] rewards: the highest where all pixels are .5."""
    return -(images - 0.5).square().flatten(1).mean(1)


def test_worst_images_are_moved_by_the_radius_to_a_lower_reward_and_pass_the_gradient_on() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    moved = worst_images(images, 0.05, peak)
    assert (moved - images).square().flatten(1).mean(1).sqrt().tolist() == pytest.approx([0.05] * 3, rel=1e-4)
    assert (peak(moved) < peak(images)).all()
    moved.sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, torch.ones_like(images))  # the change itself is a constant


def test_images_with_a_flat_reward_stay_as_they_are() -> None:
    images = torch.full((2, 3, 4, 4), 0.5)
    assert torch.equal(worst_images(images, 0.1, peak), images)
    assert worst_images(images, 0.0, peak) is images


def test_worst_weights_have_a_higher_loss_and_come_back_exactly_also_after_an_error() -> None:
    weights = [torch.tensor([0.3, -1.7], requires_grad=True), torch.tensor([[2.1]], requires_grad=True)]
    unused = torch.zeros(2, requires_grad=True)
    before = [weight.detach().clone() for weight in weights]

    def loss() -> torch.Tensor:
        return weights[0].square().sum() + weights[1].sum()

    def failing() -> None:
        with worst_weights([*weights, unused], 0.1, lambda: torch.autograd.backward(loss())):
            change = torch.cat([(a - b).flatten() for a, b in zip(weights, before, strict=True)])
            assert change.norm().item() == pytest.approx(0.1, rel=1e-4)
            assert loss().item() > before[0].square().sum().item() + before[1].sum().item()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True))


@pytest.mark.parametrize("worst", [{"images": 0.02}, {"weights": 0.01}, {"images": 0.02, "weights": 0.01}])
def test_fits_with_the_worst_case_learn_the_task_and_differ_from_those_without(worst: dict[str, float]) -> None:
    plain, robust = (Engine(make_spec(worst_case=one, steps=30), build=stubs()) for one in ({}, worst))
    records = [list(engine.steps()) for engine in (plain, robust)]
    assert records[1][-1].reward > records[1][0].reward + 0.1
    assert [one.loss for one in records[0]] != [one.loss for one in records[1]]
    assert not any(record.skipped for record in records[1])


@pytest.mark.parametrize("worst", [{"images": 0.02}, {"weights": 0.5}])
def test_worst_case_is_that_of_the_whole_batch_however_it_is_computed(worst: dict[str, float]) -> None:
    whole, parts = (Engine(make_spec(worst_case=worst, batch=4, accumulate=n), build=stubs()) for n in (1, 3))
    for one, other in zip(whole.steps(), parts.steps(), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)


# --- the average ------------------------------------------------------------------------------------------------


def test_average_weighs_later_steps_more_and_no_decay_means_no_average() -> None:
    weight = torch.zeros(1)
    average, none = Average(0.5), Average(0.0)
    expected = 0.0
    for step in range(20):
        weight.fill_(float(step))
        average.update([weight], step)
        none.update([weight], step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
    assert average.values[0].item() == pytest.approx(expected, rel=1e-5)
    with average.swapped([weight]), none.swapped([weight]):
        assert weight.item() == pytest.approx(expected, rel=1e-5)
    assert weight.item() == 19
    none.take([weight])
    assert weight.item() == 19
    assert not none.values


def test_fit_saves_and_evaluates_the_average(tmp_path: Path) -> None:
    plain, averaged = (Engine(make_spec(ema=decay), build=stubs()) for decay in (0.0, 0.9))
    ends = [engine.fit(tmp_path / str(index)) for index, engine in enumerate((plain, averaged))]
    last, mean = (load_file(end.run / LORA) for end in ends)
    raw = [value.clone() for value in averaged.average.values]
    assert all(not torch.equal(last[name], mean[name]) for name in last)
    assert all(torch.equal(a, b.detach()) for a, b in zip(raw, averaged.weights, strict=True))
    assert ends[0].evaluation.trained.judge != ends[1].evaluation.trained.judge


def test_resumed_fit_has_the_average_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = Engine(make_spec(ema=0.9, checkpoint_every=3), build=stubs()).fit(tmp_path / "whole")
    Engine(make_spec(ema=0.9, checkpoint_every=3, steps=3), build=stubs()).fit(tmp_path / "half")
    resumed = Engine(make_spec(ema=0.9, checkpoint_every=3), build=stubs()).fit(tmp_path / "half", resume=True)
    one, other = load_file(whole.run / LORA), load_file(resumed.run / LORA)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_checks_and_early_stopping_see_the_average(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dualproc.engine import fit as fitting

    engine = Engine(make_spec(ema=0.9, watch={"every": 3, "images": 2}), build=stubs())
    seen = []

    def monitor(loop: Any) -> tuple[None, float]:
        seen.append(all(torch.equal(a, b) for a, b in zip(loop.average.values, loop.weights, strict=True)))
        return None, 1.0

    monkeypatch.setattr(fitting, "monitor", monitor)
    engine.fit(tmp_path / "run")
    assert seen == [True, True]
