"""A small LoRA that changes the images; one that `engine.lora` has just attached does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualproc.engine import lora
from dualproc.protocols import Generator
from dualproc.spec import Lora

if TYPE_CHECKING:
    from torch import nn

SPEC = Lora(rank=2, alpha=2, strength=1)


def attach(generator: Generator) -> list[nn.Parameter]:
    """The weights of the generator's LoRA; if it has none, attach one whose second factors are not zero."""
    import torch

    if existing := [w for name, w in generator.adapter_module.named_parameters() if f".{lora.ADAPTER}." in name]:
        return existing
    weights = lora.attach(generator.adapter_module, SPEC, generator.lora_targets, seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng).to(weight))
    return weights
