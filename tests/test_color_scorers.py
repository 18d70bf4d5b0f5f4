"""The scorers `palette`, `region_color` and `hue`, on images whose colours are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from pydantic import ValidationError

from dualproc.errors import PluginError
from dualproc.kit.colors import SHADES, distances, distances_to_each, dominant_colors, lab_and_ink, to_lab
from dualproc.plugins.scorers.hue import Hue
from dualproc.plugins.scorers.palette import Palette, palette_distance
from dualproc.plugins.scorers.region_color import RegionColor
from dualproc.types import Prompt, ScoreContext

NOTHING = ScoreContext(prompts=(), seeds=())
SKY, GROUND = "#f9cfe0", "#cfc3ee"


def tensor(image: Image.Image) -> torch.Tensor:
    data = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def scene(
    sky: str = SKY,
    ground: str = GROUND,
    *,
    size: int = 64,
    ink: str = "black",
    fill: str = "#fff3c0",
    width: float = 0.04,
) -> Image.Image:
    """Sky, ground and an outlined figure that reaches from the lower edge high into the sky."""
    side = 4 * size
    canvas = Image.new("RGB", (side, side), sky)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([0, 0.5 * side, side, side], fill=ground)
    line = round(width * side)
    draw.rectangle([0.35 * side, 0.3 * side, 0.65 * side, 0.97 * side], fill=fill, outline=ink, width=line)
    draw.ellipse([0.4 * side, 0.04 * side, 0.6 * side, 0.28 * side], fill=fill, outline=ink, width=line)
    return canvas.resize((size, size), Image.Resampling.BOX)


def real(sky: str = SKY, ground: str = GROUND, *, size: int = 96) -> torch.Tensor:
    """A scene like a photograph: soft, shaded from top to bottom, with grain, outlined in brown."""
    torch.manual_seed(0)
    soft = tensor(scene(sky, ground, size=size, ink="#5a3a20").filter(ImageFilter.GaussianBlur(0.8)))
    shade = torch.linspace(0.04, -0.04, size).view(1, size, 1)
    texture = torch.nn.functional.interpolate(torch.randn(1, 1, size // 4, size // 4), size=(size, size))[0]
    return (soft + shade + 0.015 * texture + 0.03 * torch.randn(3, size, size)).clamp(0, 1)


def palette(*images: torch.Tensor, colors: tuple[str, ...] = (SKY, GROUND), **params: Any) -> list[float]:
    values: list[float] = Palette(Palette.Params(colors=colors, **params)).score(torch.stack(images), NOTHING).tolist()
    return values


def region(image: torch.Tensor, **params: Any) -> float:
    return RegionColor(RegionColor.Params(**params)).score(image[None], NOTHING).item()


# dominant colours


def test_dominant_colours_have_the_shares_of_their_areas() -> None:
    canvas = Image.new("RGB", (40, 40), "#aabbcc")
    ImageDraw.Draw(canvas).rectangle([0, 0, 39, 11], fill="#cc8844")  # 30 %
    ImageDraw.Draw(canvas).point((20, 20), fill="#00ff00")
    pixels, ink = lab_and_ink(tensor(canvas)[None])
    assert not ink.any()
    colours, shares = dominant_colors(pixels.reshape(-1, 3))
    assert distances(colours[:1], ["#aabbcc"])[0] < 0.01
    assert distances(colours[1:], ["#cc8844"]).tolist() == pytest.approx([0], abs=0.01)
    assert shares.tolist() == pytest.approx([0.7, 0.3], abs=0.001)


def test_noise_has_a_limited_number_of_dominant_colours() -> None:
    torch.manual_seed(0)
    colours, shares = dominant_colors(lab_and_ink(torch.rand(1, 3, 64, 64))[0].reshape(-1, 3))
    assert len(colours) == len(shares) <= 16
    assert shares.sum() <= 1


def test_the_shades_of_different_names_are_far_apart() -> None:
    for names in (("snow", "sand", "grass", "water"), ("blue", "pink", "yellow", "green", "purple", "orange", "white")):
        for name in names:
            others = [shade for other in names if other != name for shade in SHADES[other]]
            assert distances(to_lab(SHADES[name]), others).min() > 9


# palette


@pytest.mark.parametrize("size", [64, 128, 300])
def test_an_image_in_the_colours_of_the_swatches_is_near_and_another_is_far(size: int) -> None:
    near, far = palette(tensor(scene(size=size)), tensor(scene("#80c080", "#a08030", size=size)))
    assert near < 6  # the figure's own colour, by its area
    assert far > 25


def test_the_value_is_the_mean_weighted_by_area() -> None:
    fill = "#ffcc66"
    (found,) = palette(tensor(scene(fill=fill, width=0.01, size=128)))
    area = 0.3 * 0.67 + math.pi * 0.1 * 0.12
    assert found == pytest.approx(area * distances(to_lab([fill]), [SKY, GROUND])[0], rel=0.15)


@pytest.mark.parametrize("fill", ["#8fbc8f", "#fff3c0"])
def test_an_image_in_one_of_the_colours_is_not_on_target(fill: str) -> None:
    colors = ("skyblue", "#8fbc8f")
    both, green, blue = (
        tensor(scene(*colors, fill=fill)),
        tensor(scene(*colors[1:] * 2)),
        tensor(scene(*colors[:1] * 2)),
    )
    found = palette(both, green, blue, colors=colors)
    assert found[0] < 10
    assert min(found[1:]) > 20  # the swatches are 29 apart, the figure is nearer
    assert max(palette(green, blue, colors=colors, missing=1)) < 10
    assert max(palette(green, blue, colors=colors, share=0.0)) < 10


def test_a_swatch_counts_from_its_share_of_the_image_on() -> None:
    colors = ("#406080", SKY)
    apart = float(distances(to_lab(colors[:1]), colors[1:])[0])
    for rows, share, value in ((4, 1 / 16, 0.5), (8, 1 / 16, 0.0), (16, 1 / 16, 0.0), (16, 1 / 4, 0.5)):
        canvas = Image.new("RGB", (128, 128), colors[0])
        ImageDraw.Draw(canvas).rectangle([0, 128 - rows, 127, 127], fill=colors[1])
        assert palette(tensor(canvas), colors=colors, share=share)[0] == pytest.approx(value * apart, abs=0.1)


def test_missing_swatches_are_those_furthest_from_the_image() -> None:
    three = (SKY, GROUND, "#20a040")
    image = tensor(scene(fill=SKY))
    one, none = palette(image, colors=three, missing=1)[0], palette(image, colors=three)[0]
    assert one < 1
    assert none > 30


@pytest.mark.parametrize("missing", [0, 1])
def test_one_colour_between_two_swatches_does_not_stand_for_both(missing: int) -> None:
    swatches, between = ("#b3937f", "#9c9580"), "#a8947f"
    colors = swatches if not missing else (*swatches, "#2040c0")
    one = tensor(scene(between, between, fill=between, width=0.01))
    both = tensor(scene(*swatches, fill=between, width=0.01))
    apart = float(distances(to_lab(swatches[:1]), swatches[1:])[0])
    assert float(distances(to_lab([between]), swatches).max()) < 8  # near both
    assert palette(one, colors=colors, missing=missing)[0] == pytest.approx(apart, abs=0.5)
    assert palette(both, colors=colors, missing=missing)[0] < 2


def test_a_colour_that_is_nearest_to_no_swatch_may_stand_for_one() -> None:
    """The brown is darker than its swatch, so that the sky is nearer to both; still both are there."""
    swatches = ("#b3937f", "#9c9580")
    sky, brown = np.array([61.0, 3.0, 16.0]), np.array([56.0, 15.0, 13.0])
    apart = distances_to_each(np.stack([sky, brown]), swatches)
    assert (apart[0] < apart[1]).all()
    params = Palette.Params(colors=swatches)
    found = palette_distance(np.stack([sky, brown]), np.array([0.45, 0.45]), params)
    assert found == pytest.approx(apart[1, 0])  # the brown's own distance
    assert found < 10
    assert palette_distance(np.stack([sky, sky]), np.array([0.45, 0.45]), params) > 11  # the distance of the swatches
    none = np.array([0.0, 0.9])  # colours that cover nothing stand for nothing
    assert palette_distance(np.stack([sky, brown]), none, params) == palette_distance(brown[None], none[1:], params)


def test_the_value_changes_gradually_with_a_colour() -> None:
    params = Palette.Params(colors=("#b3937f", "#9c9580"))
    sky, start, end = np.array([61.0, 3.0, 16.0]), to_lab(params.colors[:1])[0], np.array([52.0, 20.0, 11.0])
    browns = start + np.linspace(0, 1, 100)[:, None] * (end - start)
    values = [palette_distance(np.stack([sky, brown]), np.array([0.45, 0.45]), params) for brown in browns]
    assert np.abs(np.diff(values)).max() < 0.3  # each step is 0.18 in CIELAB
    assert values[-1] > 11  # at the end, the sky stands for both


def test_the_value_changes_gradually_with_the_share_of_a_colour() -> None:
    params = Palette.Params(colors=("#b3937f", "#9c9580"))
    colours = np.array([[61.0, 3.0, 16.0], [56.0, 15.0, 13.0]])  # the sky is nearer to both swatches
    shares = np.linspace(0, 0.1, 200)
    values = [palette_distance(colours, np.array([0.45, share]), params) for share in shares]
    assert np.abs(np.diff(values)).max() < 0.3
    assert values[0] > 11  # without the brown, the sky stands for both
    assert values[-1] == pytest.approx(distances_to_each(colours, params.colors)[1, 0])


def test_outlines_of_any_thickness_do_not_count() -> None:
    thin, thick, brown = palette(
        tensor(scene(width=0.01, fill=SKY)), tensor(scene(width=0.06, fill=SKY)), tensor(scene(ink="#5a3a20", fill=SKY))
    )
    assert max(thin, thick, brown) < 0.5


def test_large_dark_areas_are_not_outlines() -> None:
    dark, navy = palette(torch.zeros(3, 64, 64), tensor(scene("#101830", "#101010")))
    assert min(dark, navy) > 35


def test_dark_areas_and_outlines_count_for_dark_swatches() -> None:
    dark_academia = ("#3B1518", "#2E2B25", "#1F3A4A")
    near, far = palette(tensor(scene("#1F3A4A", "#2E2B25", fill="#3B1518")), tensor(scene()), colors=dark_academia)
    assert near < 3
    assert far > 40


def test_shading_and_grain_hardly_change_the_value() -> None:
    (clean,) = palette(tensor(scene(size=96)))
    (found,) = palette(real())
    assert found == pytest.approx(clean, abs=2)
    assert palette(real("#80c080", "#a08030"))[0] > 25


def test_images_with_nan_have_no_value() -> None:
    bad = torch.full((3, 64, 64), math.nan)
    assert math.isnan(palette(bad)[0])
    assert math.isnan(region(bad, region="sky", color="blue"))


def test_shading_counts_less_if_lightness_is_divided() -> None:
    shaded = tensor(scene(size=96)) * torch.linspace(0.6, 1.0, 96)
    plain, shading = (
        Palette(Palette.Params(colors=(SKY, GROUND), lightness=lightness)).score(shaded[None], NOTHING).item()
        for lightness in (1.0, 2.0)
    )
    assert shading < 0.8 * plain


def test_a_photograph_has_the_colours_that_people_see_in_it() -> None:
    """The cat among scikit-image's sample images: ginger, on dark brown."""
    data = pytest.importorskip("skimage.data")
    photo = torch.from_numpy(data.chelsea().copy()).permute(2, 0, 1).float() / 255
    ginger, green = palette(photo, colors=("#a07850", "#785040", "#c0a8a0"))[0], palette(photo, colors=("#20c040",))[0]
    assert ginger < 12
    assert green > 35


# region_color


@pytest.mark.parametrize("size", [64, 96, 256])
def test_sky_and_ground_are_measured_separately(size: int) -> None:
    image = tensor(scene("#8fc1f0", "#ecd29a", size=size))
    assert region(image, region="sky", color="blue") < 1
    assert region(image, region="ground", color="sand") < 1
    assert region(image, region="ground", color="blue") > 20
    assert region(image, region="sky", color="sand") > 20


@pytest.mark.parametrize(("name", "shade"), [(name, shade) for name, shades in SHADES.items() for shade in shades[:3]])
def test_every_name_is_recognised_on_a_real_image(name: str, shade: str) -> None:
    assert region(real(ground=shade), region="ground", color=name) < 6


def test_a_box_is_measured_at_its_position() -> None:
    image = tensor(scene(fill="#40a0a0", width=0.02))
    assert region(image, region=(0.4, 0.55, 0.6, 0.9), color="#40a0a0") < 1
    assert region(image, region=(0.0, 0.0, 0.01, 0.01), color=SKY) < 1
    assert region(image, region=(1.0 - 1e-6, 0.9, 1.0, 1.0), color=GROUND) < 1


def test_the_target_colour_may_be_a_prompt_field() -> None:
    scorer = RegionColor(RegionColor.Params(region="ground", field="ground"))
    images = torch.stack([tensor(scene(ground="#f2f5fa")), tensor(scene(ground="#f2f5fa"))])
    prompts = [Prompt("a penguin", {"ground": "snow"}), Prompt("a camel", {"ground": "sand"})]
    right, wrong = scorer.score(images, ScoreContext(prompts=prompts, seeds=(1, 2))).tolist()
    assert right < 1
    assert wrong > 12
    with pytest.raises(PluginError, match="unknown colour 'lava' in the field `ground` of 'a dragon'"):
        scorer.score(images[:1], ScoreContext(prompts=[Prompt("a dragon", {"ground": "lava"})], seeds=(1,)))
    with pytest.raises(PluginError, match="has no field `ground`"):
        scorer.score(images[:1], ScoreContext(prompts=[Prompt("a dragon", {"subject": "x"})], seeds=(1,)))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"region": "sky"}, "set either `color`, or `field`"),
        ({"region": "sky", "color": "blue", "field": "sky"}, "set either `color`, or `field`"),
        ({"region": "sky", "color": "bleu"}, "unknown colour 'bleu'"),
        ({"region": (0.5, 0, 0.5, 1), "color": "blue"}, "the box is empty"),
    ],
)
def test_wrong_parameters_are_refused(params: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        RegionColor.Params(**params)


# hue


def hue(image: torch.Tensor, **params: Any) -> float:
    return float(Hue(Hue.Params(**params)).score(image[None], NOTHING).item())


@pytest.mark.parametrize("degrees", [0, 45, 120, 215.5, 330])
def test_a_hue_is_that_of_css(degrees: float) -> None:
    image = tensor(scene(f"hsl({degrees}, 55%, 72%)", "#a0c080"))
    assert hue(image, region="sky", target=degrees) == pytest.approx(degrees, abs=1)
    assert hue(image, region="ground") == pytest.approx(90, abs=1)


def test_hues_go_round_in_a_circle() -> None:
    assert hue(tensor(scene("hsl(350, 55%, 72%)")), region="sky", target=10) == pytest.approx(-10, abs=1)
    assert hue(tensor(scene("hsl(10, 55%, 72%)")), region="sky", target=350) == pytest.approx(370, abs=1)


def test_grey_has_no_hue() -> None:
    assert math.isnan(hue(tensor(scene("#8a8c8a")), region="sky", target=100))


def test_values_up_to_within_are_on_target() -> None:
    assert Palette(Palette.Params(colors=("red",), within=7)).accepted == (0, 7)
    assert RegionColor(RegionColor.Params(region="sky", color="gray")).accepted == (0, 12)
    assert Hue(Hue.Params(region="sky", target=10)).accepted == (-5, 25)
    assert Hue(Hue.Params(region="sky")).accepted is None
