"""The check for generators."""

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
"""Prompts of different lengths, so that a batch must be padded."""
LOW, LEVEL, HIGH = 0.02, 0.3, 0.7
"""Noise levels; the hack meter uses the middle one."""
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class _Probe:
    """What a generator draws in the check, and what it drew before the LoRA was attached."""

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
    """Check that a generator follows `dualproc.protocols.Generator`.

    A small LoRA is attached to it, as the engine does, and trained for one step.

    Args:
        plugin: the class, or its name if it is installed.
        params: its parameters, as in a spec.
        prompts: two different prompts that it can draw, preferably of different lengths.
        seeds: two different seeds.
        tolerance: the largest allowed difference between pixels of two equal images; for latents, a share of their
            standard deviation.

    Raises:
        ConformanceError: it does not; has one sentence for each problem.
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
        yield _unchanged(weights, before)

    conform("generators", plugin, params, checks)


def _sample(generator: Any, prompts: list[str], seeds: list[int], **switches: bool) -> Sample:
    """A sample with the expected types and shapes. Raises Finding for any other."""
    import torch

    given = ", ".join(f"{name}={on}" for name, on in switches.items())
    name = f"sample({given})" if given else "sample"
    sample = call(name, generator.sample, prompts, seeds, **switches)
    if not isinstance(sample, Sample):
        raise Finding(f"{name} returns {described(sample)}; expected dualproc.types.Sample")
    count = len(prompts)
    for what, expected in (("images", "[B, 3, H, W]"), ("latents", "[B, ...]")):
        value = getattr(sample, what)
        right = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1 and len(value) == count
        if not right or (what == "images" and (value.ndim != 4 or value.shape[1] != 3)):
            raise Finding(f"{name} returns {what} {described(value)} for {count} prompts; expected float {expected}")
        if not value.isfinite().all():
            raise Finding(f"{name} returns {what} that are not finite")
    return sample


def _denoise(generator: Any, latents: Tensor, level: float, *of: Any, **switches: bool) -> Tensor:
    import torch

    value = call(f"denoise at noise level {level}", generator.denoise, latents.clone(), level, *of, **switches)
    if not isinstance(value, torch.Tensor) or value.shape != latents.shape or not value.is_floating_point():
        raise Finding(
            f"denoise returns {described(value)} for latents {list(latents.shape)}; expected float of the same shape"
        )
    if not value.isfinite().all():
        raise Finding(f"denoise returns latents that are not finite at noise level {level}")
    return value


def _spread(latents: Tensor) -> float:
    """The standard deviation of the latents, at least 1e-6."""
    return max(latents.std().item(), 1e-6)


def _form(generator: Any, prompts: list[str], seeds: list[int], tolerance: float) -> Iterator[str]:
    yield from _targets(generator)
    returned = call("prepare", generator.prepare, prompts)
    if returned is not None:
        yield f"prepare returns {type(returned).__name__}; expected None"
    sample = _sample(generator, prompts, seeds)
    low, high = sample.images.min().item(), sample.images.max().item()
    if low < 0 or high > 1:
        yield f"the pixels of images range from {low:.3g} to {high:.3g}; expected [0, 1]"
    again = _sample(generator, prompts, seeds)
    yield from differ(
        "sample is not reproducible for the same prompts and seeds:", sample.images, again.images, tolerance
    )


def _targets(generator: Any) -> Iterator[str]:
    """A LoRA can be attached, and each target names a linear layer."""
    import torch

    module, targets = generator.adapter_module, generator.lora_targets
    if not isinstance(module, torch.nn.Module):
        raise Finding(f"adapter_module is {described(module)}; expected a torch.nn.Module")
    if isinstance(targets, str) or not targets or not all(isinstance(target, str) for target in targets):
        raise Finding(f"lora_targets are {targets!r}; expected name endings of linear layers")
    linear = [name for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    lost = [target for target in targets if not any(_ends_in(name, target) for name in linear)]
    if lost:
        yield (
            f"lora_targets that match no linear layer of {type(module).__name__}: {', '.join(lost)}; its linear layers"
            f" are {listed(linear)}"
        )


def _ends_in(name: str, target: str) -> bool:
    parts, ending = name.split("."), target.split(".")
    pairs = zip(reversed(parts), reversed(ending), strict=False)
    return len(ending) <= len(parts) and all(target_part in ("*", part) for part, target_part in pairs)


def _each_alone(generator: Any, prompts: list[str], seeds: list[int], first: Sample, tolerance: float) -> Iterator[str]:
    """The image of a prompt and seed does not depend on the batch; other prompts and seeds give other images."""
    alone = _sample(generator, prompts[1:2], seeds[1:2])
    what = f"a prompt and seed give different images alone and in a batch of {len(prompts)}:"
    yield from differ(what, first.images[1:2], alone.images, tolerance)
    what = f"a prompt and seed give different latents alone and in a batch of {len(prompts)}:"
    yield from differ(what, first.latents[1:2], alone.latents, tolerance * _spread(first.latents))
    crossed = _sample(generator, prompts[:1], seeds[1:2])
    if apart(crossed.images, first.images[:1]) <= tolerance:
        yield f"the seeds {seeds[0]} and {seeds[1]} give the same image of {prompts[0]!r}"
    if not apart(crossed.images, alone.images):
        yield f"the prompts {prompts[0]!r} and {prompts[1]!r} give exactly the same image for one seed"


def _denoises(generator: Any, prompts: list[str], seeds: list[int], latents: Tensor, tolerance: float) -> Iterator[str]:
    given, within = latents.clone(), tolerance * _spread(latents)
    call("denoise", generator.denoise, given, LEVEL, prompts, seeds)
    if apart(given, latents):
        yield "denoise changes its latents in place"
    value, again = (_denoise(generator, latents, LEVEL, prompts, seeds) for _ in range(2))
    yield from differ("denoise is not reproducible for the same latents and seeds:", value, again, within)
    alone = _denoise(generator, latents[1:2], LEVEL, prompts[1:2], seeds[1:2])
    yield from differ(
        f"denoise returns different latents alone and in a batch of {len(seeds)}:", value[1:2], alone, within
    )
    far = [_denoise(generator, latents, level, prompts, seeds) - latents for level in (LOW, HIGH)]
    off = [difference.square().mean().item() for difference in far]
    if not off[0] < off[1]:
        yield (
            f"denoise at noise level {LOW} is not nearer to the latents (mean squared distance {off[0]:.3g}) than at"
            f" {HIGH} ({off[1]:.3g}); the level must be the share of noise that is mixed into them"
        )


def _recipe(generator: Any) -> Iterator[str]:
    recipe = call("recipe", generator.recipe)
    if not isinstance(recipe, Recipe):
        yield f"recipe returns {described(recipe)}; expected dualproc.types.Recipe"
        return
    if not (isinstance(recipe.model, str) and recipe.model):
        yield f"recipe().model is {recipe.model!r}; expected a hub id or a folder"
    if not (isinstance(recipe.library, str) and recipe.library):
        yield f"recipe().library is {recipe.library!r}; expected the name of the package that the pipeline comes from"
    if recipe.dtype not in DTYPES:
        yield f"recipe().dtype is {recipe.dtype!r}; expected one of {', '.join(DTYPES)}"
    try:
        json.dumps(dict(recipe.call))
    except (TypeError, ValueError) as error:
        yield f"recipe().call cannot be written into the model card as JSON: {error}"
    if call("pipeline", generator.pipeline) is None:
        yield "pipeline returns None; expected the underlying pipeline"


def _lora_on_and_off(generator: Any, probe: _Probe) -> Iterator[str]:
    prompts, seeds, within = probe.prompts, probe.seeds, probe.tolerance * _spread(probe.first.latents)
    latents = probe.first.latents.detach()
    on = _sample(generator, prompts, seeds)
    if on.images.requires_grad or on.latents.requires_grad:
        yield "sample(grad=False) keeps the autograd graph, which costs memory for every image"
    if not apart(on.images, probe.first.images):
        yield "the LoRA does not change the images: sample does not use the layers that lora_targets name"
    base = _sample(generator, prompts, seeds, base=True)
    what = "sample(base=True) draws other images than the generator without a LoRA:"
    yield from differ(what, probe.first.images, base.images, probe.tolerance)
    what = "the LoRA is still off after sample(base=True):"
    yield from differ(what, on.images, _sample(generator, prompts, seeds).images, probe.tolerance)
    value = _denoise(generator, latents, LEVEL, prompts, seeds)
    if value.requires_grad:
        yield "denoise keeps the autograd graph; it must compute without gradient"
    yield from differ("denoise does not switch the LoRA off by default:", probe.denoised, value, within)
    with_lora = _denoise(generator, latents, LEVEL, prompts, seeds, base=False)
    if with_lora.requires_grad:
        yield "denoise(base=False) keeps the autograd graph; it must compute without gradient"
    if not apart(with_lora, probe.denoised):
        yield "denoise(base=False) switches the LoRA off"


def _gradient(
    generator: Any, probe: _Probe, trained: list[nn.Parameter], weights: Mapping[str, nn.Parameter]
) -> Iterator[str]:
    """Gradients of images and latents reach the LoRA, and no other weights; then the optimiser makes one step."""
    import torch

    grads = {}
    for what in ("images", "latents"):
        sample = _sample(generator, probe.prompts, probe.seeds, grad=True)
        value = getattr(sample, what)
        low, high = sample.images.min().item(), sample.images.max().item()
        if low < -1e-3 or high > 1 + 1e-3:
            yield f"the pixels of sample(grad=True) range from {low:.3g} to {high:.3g}; expected [0, 1]"
        if not value.requires_grad:
            yield f"{what} of sample(grad=True) are not differentiable with respect to the LoRA's weights"
            continue
        backward(value.square().mean())
        found = [weight.grad for weight in trained if weight.grad is not None]
        if not any(grad.any() for grad in found):
            yield f"no gradient of {what} of sample(grad=True) reaches the LoRA's weights"
        elif not all(grad.isfinite().all() for grad in found):
            yield f"the gradient of {what} of sample(grad=True) is not finite"
        grads[what] = sample
        if touched := [name for name, weight in weights.items() if weight.grad is not None]:
            yield f"the gradient of {what} reaches weights outside the LoRA ({listed(touched)})"
            for weight in weights.values():
                weight.grad = None
    if len(grads) == 2:
        what = "sample(grad=True) is not reproducible for the same prompts and seeds:"
        yield from differ(what, grads["images"].images, grads["latents"].images, probe.tolerance)
    crossed = _sample(generator, probe.prompts, probe.seeds, grad=True, base=True)
    if crossed.images.requires_grad:
        yield "sample(grad=True, base=True) keeps an autograd graph, although the LoRA is off"
    torch.optim.AdamW(trained, lr=1e-2).step()


def _saves(generator: Any) -> Iterator[str]:
    """The saved LoRA has the same weights when it is loaded again."""
    import torch

    module = generator.adapter_module
    before = {name: value.clone() for name, value in lora.state(module).items()}
    with tempfile.TemporaryDirectory() as folder:
        call("save_lora", generator.save_lora, Path(folder), lora.folded(module, _lora.SPEC))
        file = Path(folder, "pytorch_lora_weights.safetensors")
        if not file.is_file():
            found = ", ".join(sorted(path.name for path in Path(folder).iterdir())) or "no file"
            yield f"save_lora does not write {file.name}; its folder has {found}"
            return
        with torch.no_grad():
            for value in lora.state(module).values():
                value.zero_()
        try:
            lora.load_export(module, _lora.SPEC, file)
        except (DualprocError, RuntimeError, ValueError, OSError) as error:
            yield f"the file that save_lora writes cannot be loaded: {str(error).replace(str(file), file.name)}"
            return
    after = lora.state(module)
    off = max(apart(value, after[name]) for name, value in before.items())
    if off > 1e-2 * max(value.abs().max().item() for value in before.values()):
        yield f"save_lora writes weights that differ from its `layers` by up to {off:.3g}"


def _unchanged(weights: Mapping[str, nn.Parameter], before: Mapping[str, int]) -> Iterator[str]:
    if other := changed(weights, before):
        yield f"frozen weights of the generator have changed during the check ({listed(other)})"
