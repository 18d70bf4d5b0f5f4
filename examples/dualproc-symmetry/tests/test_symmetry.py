"""The scorer `symmetry`, on constructed images."""

from __future__ import annotations

import math

import pytest
import torch
from dualproc.testing import check_scorer
from dualproc.types import ScoreContext
from torch import Tensor

from dualproc_symmetry.symmetry import Symmetry

EMPTY = ScoreContext(prompts=(), seeds=())


def score(*greys: Tensor) -> list[float]:
    """The scores of grey images [H, W]."""
    images = torch.stack([image.expand(3, -1, -1) for image in greys])
    return Symmetry(Symmetry.Params()).score(images, EMPTY).tolist()


def test_symmetry_follows_the_protocol() -> None:
    check_scorer(Symmetry, {"target": 1.0})
    check_scorer("symmetry")


def test_constructed_images_have_known_symmetry() -> None:
    ramp = torch.linspace(0, 1, 8)
    upwards, sideways = ramp[:, None].expand(8, 8), ramp.expand(8, 8)
    quarter = torch.zeros(8, 8)
    quarter[:4, :4] = 1  # symmetric part of the variance 1/16, antisymmetric part 1/8
    assert score(upwards, sideways, quarter, sideways + upwards) == pytest.approx([1, 0, 1 / 3, 0.5], abs=1e-5)


def test_brightness_and_contrast_do_not_change_the_score() -> None:
    image = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    plain, changed = score(image, 0.3 + 0.4 * image)
    assert plain == pytest.approx(changed, abs=1e-5)


def test_plain_colour_gives_nan() -> None:
    assert all(math.isnan(value) for value in score(torch.zeros(8, 8), torch.full((8, 8), 0.7)))


def test_score_is_differentiable() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.autograd.backward(Symmetry(Symmetry.Params()).score(images, EMPTY).sum())
    assert images.grad is not None
    assert images.grad.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(("params", "accepted"), [({}, None), ({"target": 0.75, "tolerance": 0.25}, (0.5, 1.0))])
def test_accepted_is_the_range_on_target(params: dict[str, float], accepted: tuple[float, float] | None) -> None:
    assert Symmetry(Symmetry.Params(**params)).accepted == accepted
