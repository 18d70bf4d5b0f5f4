"""The anchors: what they penalise and what they allow, and that their penalties have a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_models import stable_diffusion

from dualproc.engine import lora
from dualproc.engine.ensemble import Ensemble
from dualproc.errors import PluginError
from dualproc.kit.structure import blurred
from dualproc.plugins.anchors.base_answers import BaseAnswers
from dualproc.plugins.anchors.base_colors import BaseColors
from dualproc.plugins.anchors.base_denoise import BaseDenoise
from dualproc.plugins.anchors.base_features import BaseFeatures
from dualproc.plugins.anchors.base_image import BaseImage
from dualproc.plugins.anchors.base_layout import BaseLayout
from dualproc.plugins.generators.diffusers import DiffusersGenerator
from dualproc.plugins.generators.presets import TINY
from dualproc.resolve import build
from dualproc.spec import Lora, PluginRef
from dualproc.types import Sample

PROMPTS, SEEDS = ["a cartoon of a cat", "a cartoon of an owl"], [3, 4]


@pytest.fixture(scope="module")
def generator() -> DiffusersGenerator:
    """The shipped generator, with a LoRA that changes its images."""
    built = DiffusersGenerator(DiffusersGenerator.Params(**TINY.params))
    disturb(lora.attach(built.adapter_module, Lora(rank=2), built.lora_targets, seed=0))
    return built


def disturb(weights: Sequence[torch.nn.Parameter]) -> None:
    """Add noise to the weights of a LoRA, so that it changes the images."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight += 0.05 * torch.randn(weight.shape, generator=rng)


def penalty(anchor: Any, sample: Sample, generator: DiffusersGenerator) -> torch.Tensor:
    found: torch.Tensor = anchor.penalty(sample, generator, PROMPTS, SEEDS, torch.Generator().manual_seed(0))
    return found


def base_layout() -> BaseLayout:
    return BaseLayout(BaseLayout.Params())


def base_image(**params: Any) -> BaseImage:
    return BaseImage(BaseImage.Params(**params))


@pytest.mark.parametrize(
    "anchor",
    [
        base_image(),
        base_image(blur=0.05),
        base_image(norm="l1"),
        base_layout(),
        BaseColors(BaseColors.Params()),
        BaseDenoise(BaseDenoise.Params()),
    ],
)
def test_an_anchor_returns_one_penalty_per_image_whose_gradient_reaches_the_lora(
    anchor: Any, generator: DiffusersGenerator
) -> None:
    sample = generator.sample(PROMPTS, SEEDS, grad=True)
    found = penalty(anchor, sample, generator)
    assert found.shape == (2,)
    assert (found > 0).all()
    weights = [w for w in generator.adapter_module.parameters() if w.requires_grad]
    gradients = torch.autograd.grad(found.mean(), weights)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert torch.is_grad_enabled()


def test_the_penalty_of_an_image_is_its_squared_distance_to_the_base_image(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    assert penalty(base_image(), base, generator).tolist() == [0, 0]
    lighter = replace(base, images=base.images + torch.tensor([0.1, 0.2])[:, None, None, None])
    expected = torch.tensor([0.01, 0.04])
    torch.testing.assert_close(penalty(base_image(), lighter, generator), expected)
    torch.testing.assert_close(penalty(base_image(blur=0.05), lighter, generator), expected)


def test_colours_may_move_but_not_change(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    anchor = BaseColors(BaseColors.Params())
    moved = replace(base, images=base.images.roll(16, dims=3).flip(2))
    lighter, darker = (replace(base, images=base.images + change) for change in (0.1, -0.1))
    assert penalty(anchor, base, generator).abs().max() == 0
    assert penalty(anchor, moved, generator).abs().max() < 1e-6
    torch.testing.assert_close(penalty(anchor, lighter, generator), penalty(anchor, darker, generator))
    # The mean |cosine| of a random direction with a fixed one is 1/2, and lighter by .1 is sqrt(3) / 10 away.
    many = [anchor.penalty(lighter, generator, PROMPTS, SEEDS, torch.Generator().manual_seed(s)) for s in range(30)]
    torch.testing.assert_close(torch.stack(many).mean(0), torch.full((2,), 0.1 * 3**0.5 / 2), rtol=0.1, atol=0)


def test_with_l1_a_large_change_of_a_part_costs_as_much_as_a_small_one_of_all(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    few, many = base.images.clone(), base.images + 0.1
    few[..., :16, :] += 0.4  # a quarter of the image, four times as much
    for changed, squared in ((few, 0.04), (many, 0.01)):
        sample = replace(base, images=changed)
        length = penalty(base_image(norm="l1"), sample, generator)
        torch.testing.assert_close(length, torch.full((2,), 0.1), rtol=0.12, atol=0)
        torch.testing.assert_close(penalty(base_image(), sample, generator), torch.full((2,), squared))
    same = replace(base, images=base.images.clone().requires_grad_())
    found = penalty(base_image(norm="l1"), same, generator)
    assert found.tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(found.sum(), same.images)
    assert gradient.abs().max() == 0


def test_the_judge_s_answers_to_other_questions_are_kept(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    anchor = BaseAnswers(BaseAnswers.Params(questions=("Is the sky blue?", "Is there snow on the ground?")))
    anchor.judge = build("judges", PluginRef(type="tiny"))
    blue = base.images.clone()
    blue[:, :, :24] = torch.tensor([0.56, 0.76, 0.94])[:, None, None]
    sample = replace(base, images=blue.requires_grad_())
    assert penalty(anchor, base, generator).tolist() == pytest.approx([0, 0], abs=1e-9)
    found = penalty(anchor, sample, generator)
    assert found.min() > 1e-3
    (gradient,) = torch.autograd.grad(found.sum(), sample.images)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_what_the_judge_sees_of_an_image_is_kept(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    anchor = BaseFeatures(BaseFeatures.Params())
    anchor.judge = build("judges", PluginRef(type="tiny"))
    noisy = base.images + 0.02 * torch.randn(base.images.shape, generator=torch.Generator().manual_seed(0))
    moved = base.images.roll(16, dims=3)
    costs = [penalty(anchor, replace(base, images=images), generator) for images in (base.images, noisy, moved)]
    assert costs[0].abs().max() < 1e-5
    assert (10 * costs[1] < costs[2]).all()
    sample = replace(base, images=moved.requires_grad_())
    (gradient,) = torch.autograd.grad(penalty(anchor, sample, generator).sum(), sample.images)
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_a_judge_without_image_features_is_refused_when_models_are_loaded() -> None:
    anchor, judge = BaseFeatures(BaseFeatures.Params()), build("judges", PluginRef(type="tiny"))
    with pytest.raises(PluginError, match="Ensemble has none"):
        anchor.judge = Ensemble([(1.0, judge)])


def test_the_layout_is_free_of_colours_and_sees_what_moved(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    recoloured = replace(base, images=base.images.roll(1, dims=1))  # red to green, green to blue, blue to red
    moved = replace(base, images=base.images.roll(16, dims=3))
    flat = replace(base, images=torch.full_like(base.images, 0.5).requires_grad_())
    assert penalty(base_layout(), base, generator).abs().max() < 1e-4
    assert penalty(base_layout(), recoloured, generator).abs().max() < 0.05
    assert penalty(base_layout(), moved, generator).min() > 0.3
    (gradient,) = torch.autograd.grad(penalty(base_layout(), flat, generator).sum(), flat.images)
    assert gradient.isfinite().all()


def test_with_a_blur_details_are_free_and_areas_are_penalised(generator: DiffusersGenerator) -> None:
    base = generator.sample(PROMPTS, SEEDS, base=True)
    stripes, halves = torch.zeros_like(base.images), torch.zeros_like(base.images)
    stripes[..., ::2], stripes[..., 1::2] = 0.1, -0.1
    halves[..., :32, :], halves[..., 32:, :] = 0.1, -0.1
    for pattern, low, high in ((stripes, 0.0, 0.01), (halves, 0.7, 0.9)):
        changed = replace(base, images=base.images + pattern)
        sharp, blurred = (penalty(base_image(blur=blur), changed, generator) for blur in (0, 0.05))
        torch.testing.assert_close(sharp, torch.full((2,), 0.01))
        assert ((low * sharp <= blurred) & (blurred < high * sharp)).all()


@pytest.mark.parametrize("size", [(3, 40), (40, 3), (1, 1)])
def test_any_blur_works_for_any_image_size(size: tuple[int, int]) -> None:
    flat = blurred(torch.full((1, 3, *size), 0.5), 0.25)
    torch.testing.assert_close(flat, torch.full((1, 3, *size), 0.5))


def test_base_images_are_compared_at_the_same_sampling_step(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With several sampling steps, the image is the estimate after a random one; an untrained LoRA has no penalty."""
    folder = stable_diffusion(tmp_path_factory.mktemp("sd"))
    unet = DiffusersGenerator(DiffusersGenerator.Params(model=str(folder), height=32, width=32, steps=4, guidance=3.0))
    weights = lora.attach(unet.adapter_module, Lora(rank=2), unet.lora_targets, seed=0)  # untrained: it changes nothing
    for seed in range(6):
        sample = unet.sample(["a cat"], [seed], grad=True)
        found = base_image().penalty(sample, unet, ["a cat"], [seed], torch.Generator())
        torch.testing.assert_close(found, torch.zeros(1), atol=1e-8, rtol=0)
    disturb(weights)
    changed = unet.sample(["a cat"], [0], grad=True)
    assert base_image().penalty(changed, unet, ["a cat"], [0], torch.Generator()).item() > 1e-6
