"""The check for anchors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dualproc.protocols import Generator
from dualproc.resolve import build
from dualproc.spec import PluginRef
from dualproc.types import Sample

from ._conform import apart, call, conform, differ, gradients, one_per_image, require_several, touched
from ._probes import PROMPTS, SEEDS, attach_lora, weights_of

TEXTS = tuple(prompt.text for prompt in PROMPTS[:2])


def check_anchor(
    plugin: type[Any] | str,
    params: Mapping[str, Any] | None = None,
    /,
    *,
    generator: Generator | None = None,
    prompts: Sequence[str] = TEXTS,
    tolerance: float = 1e-5,
) -> None:
    """Check that an anchor follows `dualproc.protocols.Anchor`; `dualproc.testing` describes what all checks share.

    Args:
        generator: draws the samples; by default the shipped generator, `tiny`. A small LoRA is attached to it.
        prompts: 2 to 4 prompts that the generator can draw.
        tolerance: the largest allowed difference between two penalties of the same sample.

    Raises DualprocError if there are fewer or more prompts.
    """
    require_several("prompts", prompts, 2, len(SEEDS))

    def checks(anchor: Any) -> Iterator[Iterator[str]]:
        source: Generator = generator or build("generators", PluginRef(type="dualproc/tiny"))
        source.prepare(prompts)
        if hasattr(anchor, "judge"):
            anchor.judge = build("judges", PluginRef(type="dualproc/tiny"))
        attach_lora(source)
        with torch.no_grad():
            drawn = source.sample(prompts, SEEDS[: len(prompts)])
        yield _form(anchor, source, drawn, prompts, tolerance)
        yield _gradient(anchor, source, drawn, prompts)

    conform("anchors", plugin, params, checks)


def _penalty(anchor: Any, generator: Generator, sample: Sample, prompts: Sequence[str]) -> Tensor:
    rng, count = torch.Generator().manual_seed(0), len(prompts)
    value = call("penalty", anchor.penalty, sample, generator, list(prompts), list(SEEDS[:count]), rng)
    return one_per_image(value, count, "penalty returns", f" for a sample of {count} images")


def _moved(sample: Sample) -> Sample:
    """Images and latents with noise added; both are leaves that require a gradient."""
    rng = torch.Generator().manual_seed(0)

    def moved(value: Tensor, by: float) -> Tensor:
        noise = torch.randn(value.shape, generator=rng).to(value)
        return (value.detach() + by * noise).requires_grad_()

    return Sample(images=moved(sample.images, 0.1), latents=moved(sample.latents, 0.3))


def _form(anchor: Any, generator: Generator, drawn: Sample, prompts: Sequence[str], tolerance: float) -> Iterator[str]:
    given = Sample(drawn.images.clone(), drawn.latents.clone())
    value = _penalty(anchor, generator, given, prompts)
    for penalty in (value, _penalty(anchor, generator, _moved(drawn), prompts)):
        if not (penalty.isfinite() & (penalty >= 0)).all():
            yield f"penalty returns {penalty.tolist()}; expected finite numbers >= 0"
    if apart(given.images, drawn.images) or apart(given.latents, drawn.latents):
        yield "penalty changes its sample in place"
        return
    again = _penalty(anchor, generator, drawn, prompts)
    what = "penalty is not reproducible for the same sample and `rng` (draw random numbers from `rng` only):"
    yield from differ(what, value.detach(), again.detach(), tolerance)


def _gradient(anchor: Any, generator: Generator, drawn: Sample, prompts: Sequence[str]) -> Iterator[str]:
    """Each penalty has a gradient in its own image or latents, and in nothing else."""
    weights = weights_of(generator, generator.adapter_module)
    sample = _moved(drawn)
    penalty = _penalty(anchor, generator, sample, prompts)
    if not penalty.requires_grad:
        yield "penalty is not differentiable with respect to the sample; detach only what the sample is compared with"
        return
    for b, one in enumerate(penalty):
        slopes = gradients(one, sample.images, sample.latents)
        if not all(slope.isfinite().all() for slope in slopes):
            yield "the gradient of penalty with respect to the sample is not finite"
            return
        if not any(slope[b].any() for slope in slopes):
            yield "the gradient of penalty with respect to the sample is 0, so it cannot train the generator"
            return
        if any(slope[other].any() for slope in slopes for other in range(len(prompts)) if other != b):
            yield "the penalty of one image depends on another image of the batch"
            return
    if names := touched(penalty.sum(), weights):
        yield f"penalty backpropagates into the generator, not only into the sample; detach its outputs ({names[0]})"
