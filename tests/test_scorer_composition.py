"""The composition scorer, on drawn scenes; `tools.tiny_world.accuracy_geometry` measures it on rendered ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dualproc.plugins.scorers.composition import Composition
from dualproc.types import ScoreContext

SIZE = 128
BOTH = {"box": [0.0, 0.5, 0.5, 1.0], "x": 0.5}


def composition(image: Image.Image, **params: object) -> float:
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] / 255
    scorer = Composition(Composition.Params.model_validate(BOTH | params))
    return scorer.score(images, ScoreContext(prompts=(), seeds=())).item()


def field() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (SIZE, SIZE), "#f5b5cf")
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0.4 * SIZE, SIZE, SIZE], fill="#e6e0a8")
    return image, draw


def test_an_enclosed_area_belongs_to_the_drawing_even_in_the_colour_of_the_ground() -> None:
    image, draw = field()
    draw.rectangle([0.05 * SIZE, 0.6 * SIZE, 0.45 * SIZE, 0.9 * SIZE], fill="#e6e0a8", outline="black", width=4)
    assert composition(image, element="expanse") == pytest.approx(0.48, abs=0.06)


def test_a_plain_field_is_empty_and_a_dotted_one_is_not() -> None:
    image, draw = field()
    assert composition(image, element="expanse") == 0
    for x in range(4, SIZE, 12):
        for y in range(60, SIZE, 12):
            draw.ellipse([x, y, x + 7, y + 7], fill="#204080")
    assert composition(image, element="expanse") > 0.2


def test_the_nearest_upright_object_counts_and_low_or_flying_ones_do_not() -> None:
    image, draw = field()
    draw.rectangle([0.7 * SIZE, 0.3 * SIZE, 0.8 * SIZE, 0.9 * SIZE], fill="#208040", outline="black", width=3)
    draw.rectangle([0.1 * SIZE, 0.3 * SIZE, 0.2 * SIZE, 0.9 * SIZE], fill="#208040", outline="black", width=3)
    draw.rectangle([0.4 * SIZE, 0.85 * SIZE, 0.6 * SIZE, 0.92 * SIZE], fill="#804020", outline="black", width=3)
    draw.ellipse([0.4 * SIZE, 0.05 * SIZE, 0.6 * SIZE, 0.25 * SIZE], fill="yellow", outline="black", width=3)
    assert composition(image, element="upright") == pytest.approx(0.25, abs=0.02)


def test_values_up_to_the_tolerance_are_on_target() -> None:
    params = Composition.Params.model_validate(BOTH | {"element": "upright", "tolerance": 0.2})
    assert Composition(params).accepted == (0.0, 0.2)


def test_a_photograph_has_no_value_because_its_texture_passes_for_drawings() -> None:
    photo = Image.fromarray(pytest.importorskip("skimage.data").astronaut())
    assert math.isnan(composition(photo, element="expanse"))
    assert math.isnan(composition(photo, element="upright"))
