"""Structure: the measurements `diversity` and `color_diversity`, and the scorer `kept`."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from PIL import Image, ImageDraw
from run_examples import score

from dualproc.engine.evaluate import alike_diversity, color_diversity, diversity
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.plugins.scorers.kept import Kept
from dualproc.types import ScoreContext

PLACES = [(0.3, 0.6), (0.65, 0.8), (0.5, 0.45)]


def drawing(
    place: tuple[float, float],
    *,
    size: int = 64,
    horizon: float = 0.55,
    colors: tuple[str, str] = ("#8fc1f0", "#9ccf74"),
    width: float = 0.03,
) -> torch.Tensor:
    """[3, size, size]: a figure (a circle on a box) at a place, in front of sky and ground."""
    side = 4 * size
    canvas = Image.new("RGB", (side, side), colors[0])
    draw = ImageDraw.Draw(canvas)
    draw.rectangle([0, horizon * side, side, side], fill=colors[1])
    (x, y), line = (side * share for share in place), round(width * side)
    r = 0.14 * side
    draw.rectangle([x - r, y - r / 2, x + r, y + r], fill="#fff3c0", outline="black", width=line)
    draw.ellipse([x - r / 2, y - 2 * r, x + r, y - r / 2], fill="#f0b090", outline="black", width=line)
    data = bytearray(canvas.resize((size, size), Image.Resampling.BOX).tobytes())
    return torch.frombuffer(data, dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1).float() / 255


def apart(one: torch.Tensor, two: torch.Tensor) -> float:
    return diversity(torch.stack([one, two]), ["a", "a"])


def seeds(**changes: object) -> float:
    return diversity(torch.stack([drawing(place, **changes) for place in PLACES]), ["a"] * 3)  # type: ignore[arg-type]


def test_identical_images_have_no_diversity() -> None:
    one = drawing(PLACES[0])
    assert apart(one, one) == pytest.approx(0, abs=1e-5)
    plain = torch.full((3, 64, 64), 0.4)
    assert apart(plain, plain) == pytest.approx(0, abs=1e-5)
    assert apart(plain, one) > 0.9


def test_only_images_of_one_prompt_are_compared() -> None:
    one, two = drawing(PLACES[0]), drawing(PLACES[1])
    images = torch.stack([one, two, one, one])
    assert diversity(images, ["a", "a", "b", "b"]) == pytest.approx(apart(one, two) / 2, rel=1e-3)
    assert diversity(images, ["a", "b", "b", "a"]) == pytest.approx(apart(one, two) / 2, rel=1e-3)
    assert math.isnan(diversity(images, ["a", "b", "c", "d"]))


def test_colour_diversity_compares_colours_and_not_layout() -> None:
    colours = [("#8fc1f0", "#9ccf74"), ("#f0a860", "#cc7f5e"), ("#cfc3ee", "#f4b6c4")]
    places = torch.stack([drawing(place) for place in PLACES])
    painted = torch.stack([drawing(PLACES[0], colors=two) for two in colours])
    assert color_diversity(painted, ["a"] * 3) > 1.5 * color_diversity(places, ["a"] * 3) > 0
    assert diversity(painted, ["a"] * 3) < 0.1 * diversity(places, ["a"] * 3)
    one, other = (torch.full((3, 64, 64), value) for value in (0.0, 1.0))
    pair = torch.stack([one, other])
    assert color_diversity(pair, ["a", "a"]) == pytest.approx(100, abs=0.1)  # from black to white in CIELAB
    assert color_diversity(pair[:1].repeat(2, 1, 1, 1), ["a", "a"]) == 0
    assert math.isnan(color_diversity(pair, ["a", "b"]))


def test_diversity_beyond_a_task_compares_with_base_images_that_are_as_alike_in_it() -> None:
    """Of the base images, every second one is at the same place: these pairs are identical, the others are not."""
    images = torch.stack([drawing(PLACES[i % 2]) for i in range(12)])
    before = score(tuple(float(i % 2) for i in range(12)))
    texts = ["a"] * 12
    unlike = apart(drawing(PLACES[0]), drawing(PLACES[1]))
    assert alike_diversity(images, texts, [before], [score((0.5,) * 11 + (0.6,))]) == pytest.approx(0, abs=1e-3)
    any_place = score(tuple(3.0 * (i % 2) for i in range(12)))
    assert alike_diversity(images, texts, [before], [any_place]) == pytest.approx(diversity(images, texts), rel=1e-3)
    assert 0 < diversity(images, texts) < unlike
    # no pair is as alike as the trained ones: the ten most alike
    squares = score(tuple(float(i * i) for i in range(12)))
    ten = sorted(itertools.combinations(range(12), 2), key=lambda pair: pair[1] ** 2 - pair[0] ** 2)[:10]
    share = sum((i + j) % 2 for i, j in ten) / 10
    nearest = alike_diversity(images, texts, [squares], [score((0.5,) * 12)])
    assert nearest == pytest.approx(share * unlike, rel=1e-2)
    assert math.isnan(alike_diversity(images, texts, [], []))
    assert math.isnan(alike_diversity(images[:2], ["a", "b"], [score((1.0, 2.0))], [score((1.0, 1.0))]))
    assert math.isnan(alike_diversity(images, texts, [before], [score((math.nan,) * 12)]))
    assert math.isnan(alike_diversity(images[:4], texts[:4], [score((1.0,) * 4)], [score((1.0,) * 4)]))


def test_unrelated_layouts_have_a_diversity_of_1() -> None:
    rng = random.Random(0)
    squares = torch.full((8, 3, 64, 64), 0.5)
    for image in squares:
        for _ in range(6):
            x, y, side = rng.randrange(54), rng.randrange(54), rng.randrange(4, 20)
            image[:, y : y + side, x : x + side] = torch.tensor([rng.random() for _ in "rgb"]).view(3, 1, 1)
    assert diversity(squares, ["a"] * 8) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("size", [64, 200])
def test_colours_and_line_weight_hardly_change_the_structure(size: int) -> None:
    one = drawing(PLACES[0], size=size)
    assert apart(one, drawing(PLACES[0], size=size, colors=("#f9cfe0", "#cfc3ee"))) < 0.02
    assert apart(one, drawing(PLACES[0], size=size, colors=("#203060", "#c08040"))) < 0.02
    assert apart(one, drawing(PLACES[0], size=size, width=0.012)) < 0.1
    assert apart(one, drawing(PLACES[1], size=size)) > 0.5


def test_diversity_between_seeds_does_not_depend_on_palette_or_line_weight() -> None:
    for trained in (seeds(colors=("#f9cfe0", "#f4b6c4")), seeds(width=0.015), seeds(width=0.045)):
        assert trained == pytest.approx(seeds(), rel=0.1)


def test_the_diversity_of_generated_images_does_not_depend_on_their_tone() -> None:
    generator = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    prompts = ["a cartoon of a cat"] * 4
    images = generator.sample(prompts, [1, 2, 3, 4]).images
    found = diversity(images, prompts)
    assert 0.3 < found < 0.9
    toned = images * images.new_tensor([0.95, 0.85, 0.75]).view(3, 1, 1)
    assert diversity(toned, prompts) == pytest.approx(found, rel=0.05)


def kept(images: torch.Tensor, base: torch.Tensor | None, **params: float) -> list[float]:
    context = ScoreContext(prompts=(), seeds=(), base_images=base)
    values: list[float] = Kept(Kept.Params(**params)).score(images, context).tolist()
    return values


def test_kept_measures_how_much_structure_of_the_base_is_left() -> None:
    base = torch.stack([drawing(place) for place in PLACES])
    assert kept(base, base) == pytest.approx([1, 1, 1], abs=1e-5)
    assert min(kept(1 - base, base)) > 0.95
    assert max(kept(base.roll(1, 0), base)) < 0.5
    half = torch.cat([base[..., :32], base[..., :1].expand(-1, -1, -1, 32)], dim=-1)
    assert 0.2 < sum(kept(half, base)) / 3 < 0.95


def test_kept_has_no_value_without_base_images_and_accepts_values_from_least() -> None:
    assert math.isnan(kept(drawing(PLACES[0])[None], None)[0])
    assert Kept(Kept.Params()).accepted is None
    assert Kept(Kept.Params(least=0.8)).accepted == (0.8, 1.0)
