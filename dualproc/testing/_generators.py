"""The check of generators."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualproc.engine import lora
from dualproc.errors import DualprocError
from dualproc.types import Recipe, Sample
from dualproc.wording import listed

from . import _lora
from ._conform import Finding, apart, backward, call, conform, described, differ
from ._probes import PROMPTS, SEEDS, changed, checksums, networks, not_frozen, weights_of

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXTS = (PROMPTS[0].text, "a dog")
"""Of different lengths, so that a batch has to be padded."""
LOW, LEVEL, HIGH = 0.02, 0.3, 0.7
"""Noise levels; the middle one is that of the hack meter."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class _Probe:
    """What a generator is asked to draw, and what it drew before it had a LoRA."""

    prompts: list[str]
    seeds: list[int]
    tolerance: float
    first: Sample
    denoised: Tensor


def check_generator(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    prompts: Sequence[str] = TEXTS,
    seeds: Sequence[int] = SEEDS[:2],
    tolerance: float = 1e-3,
) -> None:
    """Does a generator keep to `dualproc.protocols.Generator`?

    It is given a small LoRA as the engine gives it one, and one step of an optimiser.

    Args:
        plugin: the class, or the name under which it is installed.
        params: its parameters, as a spec gives them.
        prompts: two different ones that it can draw, best of different lengths.
        seeds: two different ones.
        tolerance: how far apart the pixels of two images of the same may be; of latents, as a share of their spread.

    Raises:
        ConformanceError: it does not; with a sentence for each thing that is wrong.
        PluginError: no plugin of that name can be loaded.
    """

    def checks(generator: Any) -> Iterator[Iterator[str]]:
        texts, numbers = list(prompts), list(seeds)
        yield _form(generator, texts, numbers, tolerance)
        weights = weights_of([*networks(generator), generator.adapter_module])
        before = checksums(weights)
        first = _sample(generator, texts, numbers)
        yield _each_alone(generator, texts, numbers, first, tolerance)
        yield _denoises(generator, texts, numbers, first.latents, tolerance)
        yield not_frozen("generator", weights)
        yield _recipe(generator)
        denoised = _denoise(generator, first.latents, LEVEL, texts, numbers)
        probe = _Probe(texts, numbers, tolerance, first, denoised)
        trained = _lora.attach(generator)
        yield _lora_on_and_off(generator, probe)
        yield _gradient(generator, probe, trained, weights)
        yield _saves(generator)
        yield _frozen_at_last(weights, before)

    conform("generators", plugin, params, checks)


def _sample(generator: Any, prompts: list[str], seeds: list[int], **switches: bool) -> Sample:
    """A sample whose form is right, differentiable or not as it is asked for."""
    import torch

    given = ", ".join(f"{name}={on}" for name, on in switches.items())
    name = f"sample({given})" if given else "sample"
    sample = call(name, generator.sample, prompts, seeds, **switches)
    if not isinstance(sample, Sample):
        raise Finding(f"{name} gives {described(sample)}; wanted is dualproc.types.Sample")
    count = len(prompts)
    for what, wanted in (("images", "[B, 3, H, W]"), ("latents", "[B, ...]")):
        value = getattr(sample, what)
        right = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1 and len(value) == count
        if not right or (what == "images" and (value.ndim != 4 or value.shape[1] != 3)):
            raise Finding(f"{name} gives {what} {described(value)} for {count} prompts; wanted is float {wanted}")
        if not value.isfinite().all():
            raise Finding(f"{name} gives {what} that are not finite")
    return sample


def _denoise(generator: Any, latents: Tensor, level: float, *of: Any, **switches: bool) -> Tensor:
    import torch

    value = call(f"denoise at noise level {level}", generator.denoise, latents.clone(), level, *of, **switches)
    if not isinstance(value, torch.Tensor) or value.shape != latents.shape or not value.is_floating_point():
        raise Finding(
            f"denoise gives {described(value)} for latents {list(latents.shape)}; wanted is float of their shape"
        )
    if not value.isfinite().all():
        raise Finding(f"denoise gives latents that are not finite at noise level {level}")
    return value


def _spread(latents: Tensor) -> float:
    return max(latents.std().item(), 1e-6)


def _form(generator: Any, prompts: list[str], seeds: list[int], tolerance: float) -> Iterator[str]:
    yield from _targets(generator)
    returned = call("prepare", generator.prepare, prompts)
    if returned is not None:
        yield f"prepare returns {type(returned).__name__}, which nobody takes"
    sample = _sample(generator, prompts, seeds)
    low, high = sample.images.min().item(), sample.images.max().item()
    if low < 0 or high > 1:
        yield f"images are from {low:.3g} to {high:.3g}; wanted is [0, 1]"
    again = _sample(generator, prompts, seeds)
    yield from differ("the same prompts and seeds give other images:", sample.images, again.images, tolerance)


def _targets(generator: Any) -> Iterator[str]:
    """Whether the engine could attach a LoRA, and each target names a linear layer."""
    import torch

    module, targets = generator.adapter_module, generator.lora_targets
    if not isinstance(module, torch.nn.Module):
        raise Finding(f"adapter_module is {described(module)}; wanted is a torch.nn.Module")
    if isinstance(targets, str) or not targets or not all(isinstance(target, str) for target in targets):
        raise Finding(f"lora_targets are {targets!r}; wanted are name endings of linear layers")
    linear = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    lost = [target for target in targets if not any(_ends_in(name, target) for name in linear)]
    if lost:
        yield (
            f"lora_targets name no linear layer of {type(module).__name__}: {', '.join(lost)}; its layers are"
            f" {listed(linear)}"
        )


def _ends_in(name: str, target: str) -> bool:
    parts, ending = name.split("."), target.split(".")
    pairs = zip(reversed(parts), reversed(ending), strict=False)
    return len(ending) <= len(parts) and all(wanted in ("*", part) for part, wanted in pairs)


def _each_alone(generator: Any, prompts: list[str], seeds: list[int], first: Sample, tolerance: float) -> Iterator[str]:
    """A prompt and seed give the same image, whatever stands beside them; others give others."""
    alone = _sample(generator, prompts[1:2], seeds[1:2])
    what = f"a prompt and seed give another image alone than in a batch of {len(prompts)}:"
    yield from differ(what, first.images[1:2], alone.images, tolerance)
    what = f"a prompt and seed give other latents alone than in a batch of {len(prompts)}:"
    yield from differ(what, first.latents[1:2], alone.latents, tolerance * _spread(first.latents))
    crossed = _sample(generator, prompts[:1], seeds[1:2])
    if apart(crossed.images, first.images[:1]) <= tolerance:
        yield f"the seeds {seeds[0]} and {seeds[1]} give the same image of {prompts[0]!r}"
    if not apart(crossed.images, alone.images):
        yield f"the prompts {prompts[0]!r} and {prompts[1]!r} give exactly the same image from one seed"


def _denoises(generator: Any, prompts: list[str], seeds: list[int], latents: Tensor, tolerance: float) -> Iterator[str]:
    given, within = latents.clone(), tolerance * _spread(latents)
    call("denoise", generator.denoise, given, LEVEL, prompts, seeds)
    if apart(given, latents):
        yield "denoise changes the latents that it is given"
    value, again = (_denoise(generator, latents, LEVEL, prompts, seeds) for _ in range(2))
    yield from differ("denoise of the same latents and seeds gives others the second time:", value, again, within)
    alone = _denoise(generator, latents[1:2], LEVEL, prompts[1:2], seeds[1:2])
    yield from differ(f"denoise gives other latents alone than in a batch of {len(seeds)}:", value[1:2], alone, within)
    far = [_denoise(generator, latents, level, prompts, seeds) - latents for level in (LOW, HIGH)]
    off = [difference.square().mean().item() for difference in far]
    if not off[0] < off[1]:
        yield (
            f"denoise comes no nearer to the latents from noise level {LOW} (mean squared distance {off[0]:.3g}) than"
            f" from {HIGH} ({off[1]:.3g}); the level is to say how much of them is replaced by noise"
        )


def _recipe(generator: Any) -> Iterator[str]:
    recipe = call("recipe", generator.recipe)
    if not isinstance(recipe, Recipe):
        yield f"recipe gives {described(recipe)}; wanted is dualproc.types.Recipe"
        return
    if not (isinstance(recipe.model, str) and recipe.model):
        yield f"recipe().model is {recipe.model!r}; wanted is a hub id or a folder"
    if not (isinstance(recipe.library, str) and recipe.library):
        yield f"recipe().library is {recipe.library!r}; wanted is the name of the package whose pipeline it is"
    if recipe.dtype not in DTYPES:
        yield f"recipe().dtype is {recipe.dtype!r}; wanted is one of {', '.join(DTYPES)}"
    try:
        json.dumps(dict(recipe.call))
    except (TypeError, ValueError) as error:
        yield f"recipe().call cannot be written into the model card as JSON: {error}"
    if call("pipeline", generator.pipeline) is None:
        yield "pipeline gives None; wanted is what draws, for people who want to go on with it"


def _lora_on_and_off(generator: Any, probe: _Probe) -> Iterator[str]:
    prompts, seeds, within = probe.prompts, probe.seeds, probe.tolerance * _spread(probe.first.latents)
    latents = probe.first.latents.detach()
    on = _sample(generator, prompts, seeds)
    if on.images.requires_grad or on.latents.requires_grad:
        yield "sample keeps a graph without being asked to (grad=False): every image would hold on to memory"
    if not apart(on.images, probe.first.images):
        yield "the LoRA changes no image: the layers that lora_targets name take no part in sample"
    base = _sample(generator, prompts, seeds, base=True)
    what = "sample(base=True) draws other images than the generator did before it had a LoRA:"
    yield from differ(what, probe.first.images, base.images, probe.tolerance)
    what = "after sample(base=True) the LoRA is not on again:"
    yield from differ(what, on.images, _sample(generator, prompts, seeds).images, probe.tolerance)
    value = _denoise(generator, latents, LEVEL, prompts, seeds)
    if value.requires_grad:
        yield "denoise keeps a graph; it is to be without gradient"
    yield from differ("denoise does not leave the LoRA out by default:", probe.denoised, value, within)
    trained_too = _denoise(generator, latents, LEVEL, prompts, seeds, base=False)
    if trained_too.requires_grad:
        yield "denoise(base=False) keeps a graph; it is to be without gradient"
    if not apart(trained_too, probe.denoised):
        yield "denoise(base=False) leaves the LoRA out"


def _gradient(
    generator: Any, probe: _Probe, trained: list[nn.Parameter], weights: Mapping[str, nn.Parameter]
) -> Iterator[str]:
    """From the images and from the latents into the LoRA, and into nothing else; then a step of the optimiser."""
    import torch

    grads = {}
    for what in ("images", "latents"):
        sample = _sample(generator, probe.prompts, probe.seeds, grad=True)
        value = getattr(sample, what)
        low, high = sample.images.min().item(), sample.images.max().item()
        if low < -1e-3 or high > 1 + 1e-3:
            yield f"sample(grad=True) gives images from {low:.3g} to {high:.3g}; wanted is [0, 1]"
        if not value.requires_grad:
            yield f"{what} of sample(grad=True) are not differentiable in the LoRA's weights"
            continue
        backward(value.square().mean())
        found = [weight.grad for weight in trained if weight.grad is not None]
        if not any(grad.any() for grad in found):
            yield f"no gradient of {what} of sample(grad=True) reaches the LoRA's weights"
        elif not all(grad.isfinite().all() for grad in found):
            yield f"the gradient of {what} of sample(grad=True) is not finite"
        grads[what] = sample
        if touched := [name for name, weight in weights.items() if weight.grad is not None]:
            yield f"the gradient of {what} reaches other weights than the LoRA's ({listed(touched)})"
            for weight in weights.values():
                weight.grad = None
    if len(grads) == 2:
        what = "sample(grad=True) gives other images the second time:"
        yield from differ(what, grads["images"].images, grads["latents"].images, probe.tolerance)
    crossed = _sample(generator, probe.prompts, probe.seeds, grad=True, base=True)
    if crossed.images.requires_grad:
        yield "sample(grad=True, base=True) has a graph, although the LoRA is off"
    torch.optim.AdamW(trained, lr=1e-2).step()


def _saves(generator: Any) -> Iterator[str]:
    """What is saved can be loaded again, weight for weight."""
    import torch

    module = generator.adapter_module
    before = {name: value.clone() for name, value in lora.state(module).items()}
    with tempfile.TemporaryDirectory() as folder:
        call("save_lora", generator.save_lora, Path(folder), lora.folded(module, _lora.SPEC))
        file = Path(folder, "pytorch_lora_weights.safetensors")
        if not file.is_file():
            there = ", ".join(sorted(path.name for path in Path(folder).iterdir())) or "nothing"
            yield f"save_lora writes no {file.name}; in its folder there is {there}"
            return
        with torch.no_grad():
            for value in lora.state(module).values():
                value.zero_()
        try:
            lora.load_export(module, _lora.SPEC, file)
        except (DualprocError, RuntimeError, ValueError, OSError) as error:
            yield f"what save_lora writes cannot be read back: {str(error).replace(str(file), file.name)}"
            return
    after = lora.state(module)
    off = max(apart(value, after[name]) for name, value in before.items())
    if off > 1e-2 * max(value.abs().max().item() for value in before.values()):
        yield f"what save_lora writes are other weights than it was given: they differ by up to {off:.3g}"


def _frozen_at_last(weights: Mapping[str, nn.Parameter], before: Mapping[str, int]) -> Iterator[str]:
    if other := changed(weights, before):
        yield f"weights of the generator have changed, although only the LoRA was trained ({listed(other)})"
