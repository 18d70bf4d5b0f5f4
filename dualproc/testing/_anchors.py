"""The check of anchors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualproc import registry
from dualproc.protocols import Generator
from dualproc.types import Sample

from ._conform import apart, backward, call, conform, described, differ, gradients, has_form
from ._probes import PROMPTS, SEEDS, networks, weights_of

if TYPE_CHECKING:
    from torch import Tensor

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
    """Does an anchor keep to `dualproc.protocols.Anchor`?

    Args:
        plugin: the class, or the name under which it is installed.
        params: its parameters, as a spec gives them.
        generator: whose samples it is tried on; the shipped one, `tiny`, if not given. It gets a small LoRA.
        prompts: that the generator can draw, at least 2.
        tolerance: how far apart two penalties of the same sample may be.

    Raises:
        ConformanceError: it does not; with a sentence for each thing that is wrong.
        PluginError: no plugin of that name can be loaded.
    """
    import torch

    from ._lora import attach

    def checks(anchor: Any) -> Iterator[Iterator[str]]:
        painter = generator or _shipped()
        painter.prepare(prompts)
        attach(painter)
        with torch.no_grad():
            drawn = painter.sample(prompts, SEEDS[: len(prompts)])
        yield _form(anchor, painter, drawn, prompts, tolerance)
        yield _gradient(anchor, painter, drawn, prompts)

    conform("anchors", plugin, params, checks)


def _shipped() -> Generator:
    tiny = registry.load("generators", "dualproc/tiny")
    built: Generator = tiny.cls(tiny.params({}))
    return built


def _penalty(anchor: Any, generator: Generator, sample: Sample, prompts: Sequence[str]) -> Any:
    import torch

    rng = torch.Generator().manual_seed(0)
    return call("penalty", anchor.penalty, sample, generator, list(prompts), list(SEEDS[: len(prompts)]), rng)


def _moved(sample: Sample) -> Sample:
    """Other images and latents than the generator drew, of which both are differentiable by themselves."""
    import torch

    rng = torch.Generator().manual_seed(0)

    def moved(value: Tensor, by: float) -> Tensor:
        noise = torch.randn(value.shape, generator=rng).to(value)
        return (value.detach() + by * noise).requires_grad_()

    return Sample(images=moved(sample.images, 0.1), latents=moved(sample.latents, 0.3))


def _form(anchor: Any, generator: Generator, drawn: Sample, prompts: Sequence[str], tolerance: float) -> Iterator[str]:
    given = Sample(drawn.images.clone(), drawn.latents.clone())
    value = _penalty(anchor, generator, given, prompts)
    if not has_form(value, [len(prompts)]):
        yield (
            f"penalty gives {described(value)} for a sample of {len(prompts)} images; wanted is float"
            f" [{len(prompts)}], one number per image"
        )
        return
    for penalty in (value, _penalty(anchor, generator, _moved(drawn), prompts)):
        if not (penalty.isfinite() & (penalty >= 0)).all():
            yield f"penalty is {penalty.tolist()}; wanted are finite numbers from 0"
    if apart(given.images, drawn.images) or apart(given.latents, drawn.latents):
        yield "penalty changes the sample that it is given"
        return
    again = _penalty(anchor, generator, drawn, prompts)
    what = "penalty of the same sample and the same `rng` is another the second time (draw from `rng` alone):"
    yield from differ(what, value.detach(), again.detach(), tolerance)


def _gradient(anchor: Any, generator: Generator, drawn: Sample, prompts: Sequence[str]) -> Iterator[str]:
    """Each penalty in its own image or latents, and in nothing else."""
    weights = weights_of([*networks(generator), generator.adapter_module])
    sample = _moved(drawn)
    penalty = _penalty(anchor, generator, sample, prompts)
    if not penalty.requires_grad:
        yield "penalty is not differentiable in the sample; only what it compares the sample with may be detached"
        return
    for b, one in enumerate(penalty):
        slopes = gradients(one, sample.images, sample.latents)
        if not all(slope.isfinite().all() for slope in slopes):
            yield "the gradient of penalty in the sample is not finite"
            return
        if not sum(slope[b].abs().sum().item() for slope in slopes):
            yield "the gradient of penalty in the sample is 0: nothing would hold the generator"
            return
        if any(slope[other].any() for slope in slopes for other in range(len(prompts)) if other != b):
            yield "the penalty of one image has a gradient in another"
            return
    backward(penalty.sum())
    if touched := [name for name, weight in weights.items() if weight.grad is not None]:
        for weight in weights.values():
            weight.grad = None
        yield f"penalty has a gradient in the generator's own computation, not only in the sample ({touched[0]})"
