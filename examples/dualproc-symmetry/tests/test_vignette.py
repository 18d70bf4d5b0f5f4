"""The visual prompt layer `vignette`."""

from __future__ import annotations

import numpy as np
import pytest
from dualproc.testing import check_visual_prompt
from PIL import Image
from pydantic import ValidationError

from dualproc_symmetry.vignette import Vignette


def drawn(width: int, height: int, **params: float | str) -> np.ndarray:
    """[H, W, 4] in [0, 255]: a transparent canvas with the layer drawn on it."""
    canvas = Image.new("RGBA", (width, height))
    Vignette(Vignette.Params.model_validate(params)).draw(canvas)
    return np.asarray(canvas)


def test_vignette_follows_the_protocol() -> None:
    check_visual_prompt(Vignette, {"start": 0.3, "strength": 0.8})
    check_visual_prompt("vignette")


def test_middle_is_transparent_and_corners_have_strength_and_colour() -> None:
    canvas = drawn(201, 101, strength=0.6, color="#204060")
    assert canvas[50, 100, 3] == 0
    assert canvas[0, 0].tolist() == pytest.approx([0x20, 0x40, 0x60, 0.6 * 255], abs=2)


def test_opacity_begins_at_start_and_increases_towards_the_corners() -> None:
    opacity = drawn(400, 400, start=0.4)[..., 3].diagonal()[200:].astype(int)  # from the middle to a corner
    assert opacity[:80].max() == 0
    assert opacity[100] > 0
    assert (np.diff(opacity) >= 0).all()


@pytest.mark.parametrize("params", [{"color": "blak"}, {"start": 1}, {"strength": 0}])
def test_invalid_parameters_are_refused(params: dict[str, float | str]) -> None:
    with pytest.raises(ValidationError, match=next(iter(params))):
        Vignette.Params.model_validate(params)
