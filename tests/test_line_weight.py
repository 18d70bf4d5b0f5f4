"""The line-weight scorer, on drawings whose line weight is known."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image, ImageDraw

from dualproc.plugins.scorers.line_weight import LineWeight
from dualproc.types import ScoreContext

NOTHING = ScoreContext(prompts=(), seeds=())


def drawing(width: float, size: int, *, ground: str = "#9ac", ink: str = "black") -> torch.Tensor:
    """[3, size, size]: a circle, a box and a slanted line, antialiased; `width` is a fraction of the height."""
    times = 8
    canvas = Image.new("RGB", (times * size, times * size), ground)
    draw = ImageDraw.Draw(canvas)
    side = times * size
    draw.rectangle([0, 0.6 * side, side, side], fill="#da8")
    thick = round(width * side)
    draw.ellipse([0.1 * side, 0.15 * side, 0.5 * side, 0.55 * side], fill="#fd6", outline=ink, width=thick)
    draw.rectangle([0.55 * side, 0.3 * side, 0.9 * side, 0.8 * side], fill="white", outline=ink, width=thick)
    draw.line([0.1 * side, 0.9 * side, 0.5 * side, 0.65 * side], fill=ink, width=thick)
    small = canvas.resize((size, size), Image.Resampling.BOX)
    data = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
    return data.view(size, size, 3).permute(2, 0, 1).float() / 255


def measure(*images: torch.Tensor, **params: float) -> list[float]:
    values: list[float] = LineWeight(LineWeight.Params(**params)).score(torch.stack(images), NOTHING).tolist()
    return values


@pytest.mark.parametrize("size", [64, 96, 128, 512])
@pytest.mark.parametrize("width", [0.018, 0.03, 0.045])
def test_the_width_is_measured_at_any_size(width: float, size: int) -> None:
    (found,) = measure(drawing(width, size))
    assert found == pytest.approx(width, rel=0.2)


def test_the_value_rises_with_the_width() -> None:
    found = measure(*[drawing(width, 64) for width in (0.012, 0.02, 0.03, 0.04, 0.05)])
    assert found == sorted(found)


def test_the_colours_of_the_ground_do_not_matter() -> None:
    one, two = measure(drawing(0.03, 96), drawing(0.03, 96, ground="#fbe"))
    assert one == pytest.approx(two, rel=0.05)


def test_coloured_ink_is_measured_if_its_luminance_is_given() -> None:
    (found,) = measure(drawing(0.03, 96, ink="#703030"), ink=0.24)
    assert found == pytest.approx(0.03, rel=0.2)


def test_pale_lines_count_as_thin() -> None:
    black, pale = measure(drawing(0.02, 64), drawing(0.02, 64, ink="#667"))
    assert pale < 0.8 * black


def test_an_image_without_outlines_has_no_value() -> None:
    assert all(math.isnan(value) for value in measure(torch.full((3, 64, 64), 0.7), torch.zeros(3, 64, 64)))


# images of more than 128 rows


def photograph(name: str, size: int) -> torch.Tensor:
    """[3, size, size]: a photograph that comes with scikit-image."""
    pixels = torch.from_numpy(getattr(pytest.importorskip("skimage.data"), name)()).permute(2, 0, 1).float() / 255
    return torch.nn.functional.interpolate(pixels[None], size=(size, size), mode="bilinear", antialias=True)[0]


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_outlines_on_a_photograph_are_measured_and_a_photograph_alone_has_no_value(size: int) -> None:
    ground = 0.3 + 0.7 * photograph("astronaut", size)
    lines = drawing(0.03, size, ground="#fff") < 0.2  # only the ink is that dark
    (found,) = measure(torch.where(lines, 0.03, ground))
    assert found == pytest.approx(0.03, rel=0.2)
    assert all(
        math.isnan(value) for value in measure(photograph("astronaut", size), photograph("coffee", size)[:, :, :])
    )


def test_thin_details_do_not_make_thick_outlines_thinner() -> None:
    image = drawing(0.045, 512)
    for x in range(300, 440, 20):
        image[:, 190:380, x : x + 6] = 0.0
    (found,) = measure(image)
    assert found == pytest.approx(0.045, rel=0.1)


def test_pale_marks_and_specks_are_not_outlines() -> None:
    torch.manual_seed(0)
    specks = torch.nn.functional.interpolate((torch.rand(1, 1, 128, 128) > 0.05).float(), size=512)[0].repeat(3, 1, 1)
    assert all(
        math.isnan(value)
        for value in measure(drawing(0.03, 512, ink="#bbb"), specks, torch.full((3, 512, 512), math.nan))
    )
