"""The measurement of many images: on the device there is room for a batch of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dualproc import Engine
from dualproc.engine.evaluate import evaluate
from dualproc.spec import spec_from_dict
from dualproc.types import Sample

SPEC = {
    "name": "test",
    "prompts": {"template": "a cartoon of {subject}", "train": ["a cat"], "eval": ["an owl", "a house"]},
    "question": {"template": "Is the line red?"},
    "visual_prompt": {"layers": [{"type": "line", "from": [0.1, 0.9], "to": [0.9, 0.9], "width": 0.04}]},
    "scorers": [{"type": "kept"}],
    "train": {"lora": {"rank": 2}},
    "evaluation": {"seeds": 2, "batch": 2},
}


class Away:
    """Images on a device, of which nothing can be had but a copy in main memory."""

    def __init__(self, images: torch.Tensor) -> None:
        self.cpu = lambda: images


def test_images_leave_the_device_and_are_overlaid_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(spec_from_dict(SPEC))
    plain, _ = evaluate(engine)
    sample, asked = engine.generator.sample, engine.judge.answer_log_likelihoods
    shown, drawn = [], []

    def away(*args: Any, **kwargs: Any) -> Sample:
        made = sample(*args, **kwargs)
        return replace(made, images=Away(made.images))

    def ask(images: torch.Tensor, *args: Any) -> Any:
        shown.append(len(images))
        return asked(images, *args)

    def judge_view(images: torch.Tensor, *_: Any) -> torch.Tensor:
        drawn.append(len(images))
        return images

    monkeypatch.setattr(engine.generator, "sample", away)
    monkeypatch.setattr(engine.judge, "answer_log_likelihoods", ask)
    monkeypatch.setattr(engine.evaluators, "judge_view", judge_view)
    again, drawn_images = evaluate(engine)
    assert shown == [2] * 4
    assert drawn == [2] * 4 + [4]  # the last are kept for people to look at
    assert again.trained.scores == plain.trained.scores
    assert drawn_images.base.shape == (4, 3, 64, 64)
