"""The check for generators."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualproc.engine import lora
from dualproc.errors import DualprocError
from dualproc.types import Recipe, Sample
from dualproc.wording import listed

from ._conform import Finding, apart, call, conform, described, differ, has_form, require_several, touched
from ._probes import LORA, PROMPTS, SEEDS, attach_lora, changed, checksums, not_frozen, weights_of

TEXTS = (PROMPTS[0].text, "a dog")
"""Prompts of different lengths, so that a batch must be padded."""
LOW, LEVEL, HIGH = 0.02, 0.3, 0.7
"""Noise levels; the hack meter uses the middle one."""
DTYPES = ("float32", "bfloat16", "float16")


def check_generator(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    prompts: Sequence[str] = TEXTS,
    seeds: Sequence[int] = SEEDS[:2],
    tolerance: float = 1e-3,
) -> None:
    """Check that a generator follows `dualproc.protocols.Generator`; `dualproc.testing` describes what checks share.

    A small LoRA is attached to it, as the engine does, and trained for one step.

    Args:
        prompts: two different prompts that it can draw, preferably of different lengths.
        seeds: two different seeds.
        tolerance: the largest allowed difference between pixels of two equal images; for latents, a share of their
            standard deviation.

    Raises DualprocError if there are not two prompts and two seeds.
    """
    require_several("prompts", prompts, 2)
    require_several("seeds", seeds, len(prompts), len(prompts))

    def checks(generator: Any) -> Iterator[Iterator[str]]:
        check = _Check(generator, list(prompts), list(seeds), tolerance)
        yield check.form()
        weights = weights_of(generator, generator.adapter_module)
        before = checksums(weights)
        first = check.sample()
        yield check.each_alone(first)
        yield check.denoises(first.latents)
        yield not_frozen("generator", weights)
        yield check.recipe()
        denoised = check.denoise(first.latents)
        trained = attach_lora(generator)
        yield check.lora_on_and_off(first, denoised)
        yield check.gradient(trained, weights)
        yield check.saves()
        yield changed("generator", weights, before)

    conform("generators", plugin, params, checks)


@dataclass(frozen=True)
class _Check:
    """A generator, and what it draws."""

    generator: Any
    prompts: list[str]
    seeds: list[int]
    tolerance: float

    def sample(self, prompts: slice = slice(None), seeds: slice = slice(None), **switches: bool) -> Sample:
        """A sample of some prompts and seeds, of the expected types and shapes. Raises Finding for any other."""
        given = ", ".join(f"{name}={on}" for name, on in switches.items())
        name = f"sample({given})" if given else "sample"
        sample = call(name, self.generator.sample, self.prompts[prompts], self.seeds[seeds], **switches)
        if not isinstance(sample, Sample):
            raise Finding(f"{name} returns {described(sample)}; expected dualproc.types.Sample")
        count = len(self.prompts[prompts])
        dimensions = sample.latents.ndim if isinstance(sample.latents, Tensor) else 0
        for what, value, form, expected in (
            ("images", sample.images, [count, 3, None, None], "[B, 3, H, W]"),
            ("latents", sample.latents, [count, *[None] * max(1, dimensions - 1)], "[B, ...]"),
        ):
            if not has_form(value, form):
                raise Finding(
                    f"{name} returns {what} {described(value)} for {count} prompts; expected float {expected}"
                )
            if not value.isfinite().all():
                raise Finding(f"{name} returns {what} that are not finite")
        return sample

    def denoise(self, latents: Tensor, level: float = LEVEL, rows: slice = slice(None), **switches: bool) -> Tensor:
        """Denoised latents, with the expected type and shape. Raises Finding for any other."""
        name, of = f"denoise at noise level {level}", (self.prompts[rows], self.seeds[rows])
        value = call(name, self.generator.denoise, latents.clone(), level, *of, **switches)
        if not has_form(value, latents.shape):
            shape = list(latents.shape)
            raise Finding(f"denoise returns {described(value)} for latents {shape}; expected float of the same shape")
        if not value.isfinite().all():
            raise Finding(f"denoise returns latents that are not finite at noise level {level}")
        return value

    def within(self, latents: Tensor) -> float:
        """The tolerance for latents."""
        return self.tolerance * max(latents.std().item(), 1e-6)

    def form(self) -> Iterator[str]:
        yield from self.targets()
        returned = call("prepare", self.generator.prepare, self.prompts)
        if returned is not None:
            yield f"prepare returns {type(returned).__name__}; expected None"
        images = self.sample().images
        low, high = images.min().item(), images.max().item()
        if low < 0 or high > 1:
            yield f"the pixels of images range from {low:.3g} to {high:.3g}; expected [0, 1]"
        what = "sample is not reproducible for the same prompts and seeds:"
        yield from differ(what, images, self.sample().images, self.tolerance)

    def targets(self) -> Iterator[str]:
        """A LoRA can be attached, and each target names a linear layer."""
        module, targets = self.generator.adapter_module, self.generator.lora_targets
        if not isinstance(module, nn.Module):
            raise Finding(f"adapter_module is {described(module)}; expected a torch.nn.Module")
        if isinstance(targets, str) or not targets or not all(isinstance(target, str) for target in targets):
            raise Finding(f"lora_targets are {targets!r}; expected name endings of linear layers")
        linear = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
        endings = {target: r"(.+\.)?" + re.escape(target).replace(r"\*", r"[^.]+") for target in targets}
        if lost := [target for target in targets if not any(re.fullmatch(endings[target], name) for name in linear)]:
            yield (
                f"lora_targets that match no linear layer of {type(module).__name__}: {', '.join(lost)}; its linear"
                f" layers are {listed(linear)}"
            )

    def each_alone(self, first: Sample) -> Iterator[str]:
        """The image of a prompt and seed does not depend on the batch; other prompts and seeds give other images."""
        one, two = slice(0, 1), slice(1, 2)
        alone = self.sample(two, two)
        what = f"a prompt and seed give different images alone and in a batch of {len(self.prompts)}:"
        yield from differ(what, first.images[two], alone.images, self.tolerance)
        what = f"a prompt and seed give different latents alone and in a batch of {len(self.prompts)}:"
        yield from differ(what, first.latents[two], alone.latents, self.within(first.latents))
        crossed = self.sample(one, two)
        if apart(crossed.images, first.images[one]) <= self.tolerance:
            yield f"the seeds {self.seeds[0]} and {self.seeds[1]} give the same image of {self.prompts[0]!r}"
        if not apart(crossed.images, alone.images):
            yield f"the prompts {self.prompts[0]!r} and {self.prompts[1]!r} give exactly the same image for one seed"

    def denoises(self, latents: Tensor) -> Iterator[str]:
        given, within = latents.clone(), self.within(latents)
        call("denoise", self.generator.denoise, given, LEVEL, self.prompts, self.seeds)
        if apart(given, latents):
            yield "denoise changes its latents in place"
        value = self.denoise(latents)
        what = "denoise is not reproducible for the same latents and seeds:"
        yield from differ(what, value, self.denoise(latents), within)
        alone = self.denoise(latents[1:2], rows=slice(1, 2))
        what = f"denoise returns different latents alone and in a batch of {len(self.seeds)}:"
        yield from differ(what, value[1:2], alone, within)
        low, high = ((self.denoise(latents, level) - latents).square().mean().item() for level in (LOW, HIGH))
        if not low < high:
            yield (
                f"denoise at noise level {LOW} is not nearer to the latents (mean squared distance {low:.3g}) than at"
                f" {HIGH} ({high:.3g}); the level must be the share of noise that is mixed into them"
            )

    def recipe(self) -> Iterator[str]:
        recipe = call("recipe", self.generator.recipe)
        if not isinstance(recipe, Recipe):
            yield f"recipe returns {described(recipe)}; expected dualproc.types.Recipe"
            return
        if not (isinstance(recipe.model, str) and recipe.model):
            yield f"recipe().model is {recipe.model!r}; expected a hub id or a folder"
        if not (isinstance(recipe.library, str) and recipe.library):
            expected = "the name of the package that the pipeline comes from"
            yield f"recipe().library is {recipe.library!r}; expected {expected}"
        if recipe.dtype not in DTYPES:
            yield f"recipe().dtype is {recipe.dtype!r}; expected one of {', '.join(DTYPES)}"
        try:
            json.dumps(dict(recipe.call))
        except (TypeError, ValueError) as error:
            yield f"recipe().call cannot be written into the model card as JSON: {error}"
        if call("pipeline", self.generator.pipeline) is None:
            yield "pipeline returns None; expected the underlying pipeline"

    def lora_on_and_off(self, first: Sample, denoised: Tensor) -> Iterator[str]:
        """With the LoRA off, the generator is as it was before: `first` and `denoised` were computed without a LoRA."""
        on = self.sample()
        if on.images.requires_grad or on.latents.requires_grad:
            yield "sample(grad=False) keeps the autograd graph, which costs memory for every image"
        if not apart(on.images, first.images):
            yield "the LoRA does not change the images: sample does not use the layers that lora_targets name"
        what = "sample(base=True) draws other images than the generator without a LoRA:"
        yield from differ(what, first.images, self.sample(base=True).images, self.tolerance)
        what = "the LoRA is still off after sample(base=True):"
        yield from differ(what, on.images, self.sample().images, self.tolerance)
        latents = first.latents.detach()
        value = self.denoise(latents)
        if value.requires_grad:
            yield "denoise keeps the autograd graph; it must compute without gradient"
        what = "denoise does not switch the LoRA off by default:"
        yield from differ(what, denoised, value, self.within(latents))
        with_lora = self.denoise(latents, base=False)
        if with_lora.requires_grad:
            yield "denoise(base=False) keeps the autograd graph; it must compute without gradient"
        if not apart(with_lora, denoised):
            yield "denoise(base=False) switches the LoRA off"

    def gradient(self, trained: list[nn.Parameter], weights: Mapping[str, nn.Parameter]) -> Iterator[str]:
        """Gradients of images and latents reach the LoRA, and no other weights; then the optimiser makes one step."""
        drawn = []
        for what in ("images", "latents"):
            sample = self.sample(grad=True)
            value = getattr(sample, what)
            low, high = sample.images.min().item(), sample.images.max().item()
            if low < -1e-3 or high > 1 + 1e-3:
                yield f"the pixels of sample(grad=True) range from {low:.3g} to {high:.3g}; expected [0, 1]"
            if not value.requires_grad:
                yield f"{what} of sample(grad=True) are not differentiable with respect to the LoRA's weights"
                continue
            names = touched(value.square().mean(), weights)
            found = [weight.grad for weight in trained if weight.grad is not None]
            if not any(grad.any() for grad in found):
                yield f"no gradient of {what} of sample(grad=True) reaches the LoRA's weights"
            elif not all(grad.isfinite().all() for grad in found):
                yield f"the gradient of {what} of sample(grad=True) is not finite"
            if names:
                yield f"the gradient of {what} reaches weights outside the LoRA ({listed(names)})"
            drawn.append(sample.images)
        if len(drawn) == 2:
            what = "sample(grad=True) is not reproducible for the same prompts and seeds:"
            yield from differ(what, drawn[0], drawn[1], self.tolerance)
        if self.sample(grad=True, base=True).images.requires_grad:
            yield "sample(grad=True, base=True) keeps an autograd graph, although the LoRA is off"
        torch.optim.AdamW(trained, lr=1e-2).step()

    def saves(self) -> Iterator[str]:
        """The saved LoRA has the same weights when it is loaded again."""
        module = self.generator.adapter_module
        before = {name: value.clone() for name, value in lora.state(module).items()}
        with tempfile.TemporaryDirectory() as folder:
            call("save_lora", self.generator.save_lora, Path(folder), lora.folded(module, LORA))
            file = Path(folder, "pytorch_lora_weights.safetensors")
            if not file.is_file():
                found = ", ".join(sorted(path.name for path in Path(folder).iterdir())) or "no file"
                yield f"save_lora does not write {file.name}; its folder has {found}"
                return
            lora.restore(module, {name: torch.zeros_like(value) for name, value in before.items()})
            try:
                lora.load_export(module, LORA, file)
            except (DualprocError, RuntimeError, ValueError, OSError) as error:
                yield f"the file that save_lora writes cannot be loaded: {str(error).replace(str(file), file.name)}"
                return
        after = lora.state(module)
        off = max(apart(value, after[name]) for name, value in before.items())
        if off > 1e-2 * max(value.abs().max().item() for value in before.values()):
            yield f"save_lora writes weights that differ from its `layers` by up to {off:.3g}"
