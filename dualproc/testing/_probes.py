"""What the checks pass to plugins, the same each time, and what they read from a plugin's networks."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualproc.engine import lora
from dualproc.protocols import Generator
from dualproc.spec import Lora
from dualproc.types import Prompt
from dualproc.wording import listed

SKIES = ((0.55, 0.8, 0.95), (0.95, 0.75, 0.7), (0.3, 0.35, 0.6), (0.85, 0.85, 0.9))
GROUNDS = ((0.45, 0.7, 0.35), (0.9, 0.8, 0.55), (0.95, 0.95, 0.97), (0.35, 0.3, 0.25))
FILLS = ((0.85, 0.3, 0.25), (0.95, 0.8, 0.2), (0.5, 0.35, 0.7), (0.95, 0.6, 0.3))
HORIZONS = (0.45, 0.6, 0.35, 0.5)
OUTLINES = (0.02, 0.03, 0.045, 0.025)
FEET = ((0.9, 0.75), (0.8, 0.95), (0.7, 0.85), (0.95, 0.7))
"""The foot rows of the left and the right object."""

SUBJECTS = ("a cat", "a dog", "an owl", "a car")
PROMPTS = tuple(Prompt(f"a cartoon of {subject}", {"subject": subject}) for subject in SUBJECTS)
SEEDS = (3, 2**32 + 7, 2**31 + 5, 11)
"""Training seeds are below 2^31, held-out seeds and those of monitoring above: a plugin must accept all of them."""
LORA = Lora(rank=2, alpha=2, strength=1)


def scenes(count: int, height: int = 64, width: int = 64) -> Tensor:
    """[count, 3, H, W] in [0, 1]: up to 4 simple scenes, which differ in colours, horizon, line weight and objects.

    Two outlined ellipses stand on the ground, at a quarter and three quarters of the width.
    """
    y = ((torch.arange(height) + 0.5) / height)[:, None]
    x = ((torch.arange(width) + 0.5) / width)[None]
    images = []
    for number in range(count):
        sky, ground, fill = (torch.tensor(colours[number])[:, None, None] for colours in (SKIES, GROUNDS, FILLS))
        image = torch.where(y < HORIZONS[number], sky, ground).expand(3, height, width)
        for column, foot in zip((0.25, 0.75), FEET[number], strict=True):
            wide, tall, line = 0.16, 0.22, OUTLINES[number]
            inside = ((x - column) / wide) ** 2 + ((y - foot + tall) / tall) ** 2
            within = ((x - column) / (wide - line)) ** 2 + ((y - foot + tall) / (tall - line)) ** 2
            image = torch.where(within < 1, fill, torch.where(inside < 1, 0.0, image))
        images.append(image)
    return torch.stack(images)


def attach_lora(generator: Generator) -> list[nn.Parameter]:
    """The weights of the generator's LoRA. If it has none, attach one that changes the images: a fresh one does not."""
    if existing := [w for name, w in generator.adapter_module.named_parameters() if f".{lora.ADAPTER}." in name]:
        return existing
    weights = lora.attach(generator.adapter_module, LORA, generator.lora_targets, seed=0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.05 * torch.randn(weight.shape, generator=rng).to(weight))
    return weights


def weights_of(plugin: Any, *more: nn.Module) -> dict[str, nn.Parameter]:
    """All weights of a plugin's networks and of other modules, each once, by class and name: `Linear.weight`."""
    seen: dict[int, tuple[str, nn.Parameter]] = {}
    for module in (*_networks(plugin), *more):
        for name, weight in module.named_parameters():
            seen.setdefault(id(weight), (f"{type(module).__name__}.{name}", weight))
    return dict(seen.values())


def _networks(plugin: Any) -> Iterator[nn.Module]:
    """The networks among a plugin's attributes, and in their lists, mappings and `components` (of a pipeline)."""
    for value in getattr(plugin, "__dict__", {}).values():
        inside = value if isinstance(value, Mapping) else getattr(value, "components", None)
        several: Sequence[Any] = [value]
        if isinstance(inside, Mapping):
            several = list(inside.values())
        elif isinstance(value, (list, tuple)):
            several = value
        yield from (one for one in several if isinstance(one, nn.Module))


def checksums(weights: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """The CRC-32 of the bytes of each weight; weights without data (`meta`) are left out."""
    return {
        name: zlib.crc32(weight.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().data)
        for name, weight in weights.items()
        if not weight.is_meta
    }


def not_frozen(whose: str, weights: Mapping[str, nn.Parameter]) -> Iterator[str]:
    """One sentence if any of the weights requires a gradient."""
    if trainable := [name for name, weight in weights.items() if weight.requires_grad]:
        yield f"weights of the {whose} are not frozen ({listed(trainable)}); call requires_grad_(False) in __init__"


def changed(whose: str, weights: Mapping[str, nn.Parameter], before: Mapping[str, int]) -> Iterator[str]:
    """One sentence if the bytes of any of the weights no longer match the checksums `before`."""
    after = checksums(weights)
    if other := [name for name in before if before[name] != after.get(name)]:
        yield f"frozen weights of the {whose} have changed during the check ({listed(other)})"
