"""The horizon scorer, on drawings and photograph-like images whose horizon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from dualproc.plugins.scorers.horizon import Horizon
from dualproc.types import ScoreContext

NOTHING = ScoreContext(prompts=(), seeds=())
SIZE = 256


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None] / 255


def row_of(images: torch.Tensor) -> float:
    return Horizon(Horizon.Params()).score(images, NOTHING).item()


def cartoon(row: float, size: int, sky: str, ground: str) -> torch.Tensor:
    """A sun and an outlined box that hides half of the horizon."""
    image = Image.new("RGB", (size, size), sky)
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, round(row * size), size, size], fill=ground)
    draw.ellipse([0.1 * size, 0.05 * size, 0.25 * size, 0.2 * size], fill="yellow", outline="black")
    draw.rectangle([0.3 * size, 0.25 * size, 0.8 * size, 0.9 * size], fill="#d05050", outline="black", width=size // 32)
    return tensor(image)


def landscape(row: float, *, slope: float = 0.0, texture: float = 0.0, width: int = SIZE) -> Image.Image:
    """Gradients in sky and ground; `texture` is a standard deviation in 8-bit units."""
    y, x = (np.mgrid[:SIZE, :width] + 0.5) / SIZE
    line = row + slope * (x - width / SIZE / 2)
    down = (y / line).clip(0, 1)[..., None]
    sky = (1 - down) * [90, 140, 220] + down * [200, 220, 245]
    near = ((y - line) / (1 - line)).clip(0, 1)[..., None]
    ground = (1 - near) * [150, 190, 110] + near * [80, 120, 50]
    pixels = np.where((y < line)[..., None], sky, ground)
    pixels += texture * np.random.default_rng(0).standard_normal(pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [64, 96, 256])
@pytest.mark.parametrize(("sky", "ground"), [("#c8e0f4", "#b5d99c"), ("#f0a860", "#7d98a6"), ("#ffffff", "#e8c8d8")])
def test_the_horizon_of_a_cartoon_is_measured_in_any_colours(size: int, sky: str, ground: str) -> None:
    for row in (0.3, 0.45, 0.7):
        assert row_of(cartoon(row, size, sky, ground)) == pytest.approx(round(row * size) / size, abs=0.01)


@pytest.mark.parametrize("row", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("slope", [0.0, 0.12, -0.2])
def test_gradients_texture_and_slope_do_not_matter(row: float, slope: float) -> None:
    assert row_of(tensor(landscape(row, slope=slope))) == pytest.approx(row, abs=0.02)
    assert row_of(tensor(landscape(row, slope=slope, texture=15))) == pytest.approx(row, abs=0.02)


def test_a_wide_image_is_measured() -> None:
    assert row_of(tensor(landscape(0.4, width=2 * SIZE))) == pytest.approx(0.4, abs=0.02)


def test_a_large_outlined_object_in_front_of_the_horizon_does_not_matter() -> None:
    image = landscape(0.55, texture=6)
    ImageDraw.Draw(image).ellipse([40, 60, 210, 235], fill=(200, 60, 60), outline=(60, 20, 90), width=6)
    assert row_of(tensor(image)) == pytest.approx(0.55, abs=0.02)


def test_a_horizon_with_an_outline_is_measured() -> None:
    image = landscape(0.4)
    ImageDraw.Draw(image).line([0, 0.4 * SIZE, SIZE, 0.4 * SIZE], fill=(160, 40, 40), width=4)
    assert row_of(tensor(image)) == pytest.approx(0.4, abs=0.02)


def test_images_without_a_horizon_have_no_value() -> None:
    y = np.linspace(0, 1, SIZE)[:, None, None]
    gradient = Image.fromarray(np.broadcast_to(30 + y * [200, 100, 150], (SIZE, SIZE, 3)).astype(np.uint8))
    page = Image.new("RGB", (SIZE, SIZE), "#eeeeee")
    ImageDraw.Draw(page).ellipse([40, 60, 210, 235], fill=(200, 60, 60), outline="black", width=6)
    noise = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    flat, broken = torch.full((1, 3, 64, 64), 0.5), torch.full((1, 3, 64, 64), torch.nan)
    for images in (tensor(gradient), tensor(page), noise, flat, broken):
        assert math.isnan(row_of(images))


def test_rows_within_the_tolerance_of_a_target_are_on_target() -> None:
    assert Horizon(Horizon.Params()).accepted is None
    assert Horizon(Horizon.Params(target=0.3, tolerance=0.1)).accepted == pytest.approx((0.2, 0.4))


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_the_horizon_of_a_strongly_textured_ground_is_measured(seed: int) -> None:
    """Texture (standard deviation 35 of 255), as coarse as the 64 rows at which the horizon is searched."""
    texture = 35 * np.random.default_rng(seed).standard_normal((64, 64, 1))
    image = np.array(landscape(0.6)).astype(float)
    image[int(0.6 * SIZE) :] += np.kron(texture, np.ones((4, 4, 1)))[int(0.6 * SIZE) :]
    assert row_of(tensor(Image.fromarray(image.clip(0, 255).astype(np.uint8)))) == pytest.approx(0.6, abs=0.02)


def test_a_photograph_without_a_horizon_has_no_value() -> None:
    data = pytest.importorskip("skimage.data")
    for photo in (data.astronaut(), data.coffee()):
        assert math.isnan(row_of(torch.from_numpy(photo.copy()).permute(2, 0, 1).float()[None] / 255))
