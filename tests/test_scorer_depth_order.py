"""The depth-order scorer, on scenes whose objects touch or have several parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dualproc.plugins.scorers.depth_order import DepthOrder
from dualproc.types import ScoreContext

SIZE = 128
FILLS = ("#f0a860", "#ffffff", "#8090c0")
Box = tuple[float, float, float, float]


def ahead(*boxes: Box) -> float:
    """A minus B in a scene of outlined boxes; later boxes are in front of earlier ones."""
    image = Image.new("RGB", (SIZE, SIZE), "#c8e0f4")
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0.4 * SIZE, SIZE, SIZE], fill="#b5d99c")
    for box, fill in zip(boxes, FILLS, strict=False):
        draw.rectangle([side * SIZE for side in box], fill=fill, outline="black", width=4)
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] / 255
    scorer = DepthOrder(DepthOrder.Params(a=(0.25, 0.7), b=(0.75, 0.7)))
    return scorer.score(images, ScoreContext(prompts=(), seeds=())).item()


def test_overlapping_objects_are_separated() -> None:
    assert ahead((0.45, 0.3, 0.9, 0.65), (0.1, 0.4, 0.5, 0.9)) == pytest.approx(0.25, abs=0.04)
    assert ahead((0.1, 0.3, 0.5, 0.6), (0.46, 0.4, 0.9, 0.9)) == pytest.approx(-0.3, abs=0.04)


def test_objects_that_touch_by_a_thin_part_are_separated() -> None:
    tail = (0.36, 0.58, 0.6, 0.61)
    assert ahead((0.6, 0.35, 0.9, 0.62), tail, (0.1, 0.5, 0.36, 0.9)) == pytest.approx(0.28, abs=0.05)


def test_a_head_above_its_shoulders_is_the_same_object() -> None:
    head, shoulders, other = (0.18, 0.4, 0.32, 0.6), (0.1, 0.63, 0.4, 0.9), (0.65, 0.4, 0.85, 0.75)
    assert ahead(head, shoulders, other) == pytest.approx(0.15, abs=0.03)


def test_there_is_no_value_without_an_object_near_a_point() -> None:
    assert math.isnan(ahead((0.1, 0.4, 0.35, 0.9), (0.42, 0.4, 0.5, 0.8)))


def test_a_photograph_has_no_value_because_its_texture_passes_for_objects() -> None:
    photo = (
        torch.from_numpy(pytest.importorskip("skimage.data").astronaut().copy()).permute(2, 0, 1).float()[None] / 255
    )
    scorer = DepthOrder(DepthOrder.Params(a=(0.25, 0.7), b=(0.75, 0.7)))
    assert math.isnan(scorer.score(photo, ScoreContext(prompts=(), seeds=())).item())
