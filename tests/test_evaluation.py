"""The evaluation of many held-out images on a device that has memory for one batch."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from stub_plugins import SIDE, BrightnessJudge, StubGenerator, stubs

from dualproc import Engine
from dualproc.engine.evaluate import evaluate, share_on_target
from dualproc.spec import spec_from_dict
from dualproc.types import Answers, Sample

BATCH, IMAGES = 2, 6
SPEC: dict[str, Any] = {
    "name": "test",
    "prompts": {"template": "a cartoon of {subject}", "train": ["a cat"], "eval": ["an owl", "a house"]},
    "question": [{"template": "Is the line red?"}, {"template": "Is this {subject}?"}],
    "preserve": {"template": "Is this a drawing of {subject}?"},
    "visual_prompt": {"layers": [{"type": "line", "from": [0, 0.9], "to": [1, 0.9], "width": 0.2, "color": "black"}]},
    "referee": {"type": "tiny-referee"},
    "scorers": [{"type": "kept"}],
    "train": {"lora": {"rank": 2}, "stop": None},
}


class DeviceImages:
    """Images on a device; they support only a copy to main memory, so that nothing else is computed on all of them."""

    def __init__(self, images: torch.Tensor) -> None:
        self.cpu, self.shape = images.clone, images.shape


class GeneratorOnDevice(StubGenerator):
    """Fails if a batch is sampled while images of an earlier batch, other than the last one, are on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.on_device: weakref.WeakSet[DeviceImages] = weakref.WeakSet()

    def sample(self, *args: Any, **kwargs: Any) -> Sample:
        made = super().sample(*args, **kwargs)
        assert len(made.images) <= BATCH
        assert len(self.on_device) <= 1
        images: Any = DeviceImages(made.images)
        self.on_device.add(images)
        return replace(made, images=images)


class JudgeWithLittleMemory(BrightnessJudge):
    """Fails if it gets more images than one batch, or overlaid images that are part of a larger tensor."""

    def answer_log_likelihoods(self, images: torch.Tensor, questions: Any) -> Answers:
        assert len(images) <= BATCH
        if images[:, :, round(0.9 * SIDE)].max() < 0.01:  # the black line of the visual prompt
            assert images.untyped_storage().nbytes() == images.numel() * images.element_size()
        return super().answer_log_likelihoods(images, questions)


def engine(batch: int, **plugins: Any) -> Engine:
    made = Engine(
        spec_from_dict({**SPEC, "evaluation": {"seeds": IMAGES // 2, "batch": batch}}), build=stubs(**plugins)
    )
    with torch.no_grad():  # otherwise base and trained images are the same
        for weight in made.weights:
            weight.copy_(torch.linspace(-1, 1, weight.numel()).view_as(weight))
    return made


def test_evaluation_needs_memory_for_one_batch_only() -> None:
    expected, images = evaluate(engine(IMAGES))
    device = engine(BATCH, generators=GeneratorOnDevice(), judges=JudgeWithLittleMemory())
    found, copies = evaluate(device)
    assert (found.prompts, found.seeds) == (expected.prompts, expected.seeds)
    for one, other in ((found.base, expected.base), (found.trained, expected.trained)):
        assert one.scores[0].values == pytest.approx(other.scores[0].values)
        assert one.judge == pytest.approx(other.judge)
        assert one.referee == pytest.approx(other.referee)
        assert one.preserved == pytest.approx(other.preserved)
        assert (one.hack_meter, one.diversity) == pytest.approx((other.hack_meter, other.diversity))
        assert len(one.judge) == IMAGES
    assert found.trained.judge != pytest.approx(found.base.judge)
    assert found.trained.judge != pytest.approx(found.trained.preserved)  # the referee's image has no visual prompt
    for name in ("base", "trained", "judge_view"):
        torch.testing.assert_close(getattr(copies, name), getattr(images, name))


def test_progress_is_reported_per_batch_of_base_and_trained_images() -> None:
    advanced: list[int] = []
    evaluate(engine(4), advanced.append)
    assert advanced == [4, 2] * 2


def test_images_without_a_value_count_as_missed_unless_no_image_has_one() -> None:
    assert share_on_target((0.1, 0.2, math.nan, 0.9), (0.0, 0.5)) == 0.5
    assert share_on_target((0.9, math.nan), (0.0, 0.5)) == 0
    assert share_on_target((math.nan, math.nan), (0.0, 0.5)) is None
    assert share_on_target((0.1,), None) is None
