"""The scorer `symmetry`, on images made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from dualproc.testing import check_scorer
from dualproc.types import ScoreContext
from torch import Tensor

from dualproc_symmetry.symmetry import Symmetry

NOTHING = ScoreContext(prompts=(), seeds=())


def score(*greys: Tensor) -> list[float]:
    """Of grey images [H, W]."""
    images = torch.stack([image.expand(3, -1, -1) for image in greys])
    return Symmetry(Symmetry.Params()).score(images, NOTHING).tolist()


def test_it_keeps_to_the_protocol() -> None:
    check_scorer(Symmetry, {"target": 1.0})
    check_scorer("symmetry")


def test_hand_made_images_have_the_symmetry_that_they_were_made_with() -> None:
    ramp = torch.linspace(0, 1, 8)
    upwards, sideways = ramp[:, None].expand(8, 8), ramp.expand(8, 8)
    quarter = torch.zeros(8, 8)
    quarter[:4, :4] = 1  # of the variance, 1/16 stays when mirrored, and 1/8 turns
    assert score(upwards, sideways, quarter, sideways + upwards) == pytest.approx([1, 0, 1 / 3, 0.5], abs=1e-5)


def test_a_shift_in_brightness_or_contrast_changes_nothing() -> None:
    image = torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    plain, changed = score(image, 0.3 + 0.4 * image)
    assert plain == pytest.approx(changed, abs=1e-5)


def test_there_is_nothing_to_measure_in_a_plain_colour() -> None:
    assert all(math.isnan(value) for value in score(torch.zeros(8, 8), torch.full((8, 8), 0.7)))


def test_it_is_differentiable() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.autograd.backward(Symmetry(Symmetry.Params()).score(images, NOTHING).sum())
    assert images.grad is not None
    assert images.grad.flatten(1).any(dim=1).all()


@pytest.mark.parametrize(("params", "accepted"), [({}, None), ({"target": 0.75, "tolerance": 0.25}, (0.5, 1.0))])
def test_what_is_on_target(params: dict[str, float], accepted: tuple[float, float] | None) -> None:
    assert Symmetry(Symmetry.Params(**params)).accepted == accepted
