"""The layers that receive the LoRA, found by inspecting the backbone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dualproc.errors import PluginError
from dualproc.kit.blocks import holds_blocks

if TYPE_CHECKING:
    from torch import nn

CONDITIONING = re.compile(r"(?:^|_)(?:norm|mod(?!el)|ada|emb|time)", re.IGNORECASE)
"""Parts of the names of norms, modulation and embeddings, which condition the blocks from outside."""


def find_targets(module: nn.Module) -> list[str]:
    """Name endings (`*` is any one part of a name) of the linear layers of attention and feed-forward.

    These are the linear layers in repeated blocks (members of a ModuleList whose modules have children), except those
    that are named as conditioning. Raises PluginError if there are none.
    """
    import torch

    repeated = {name for name, part in module.named_modules() if holds_blocks(part)}
    endings: dict[str, None] = {}
    for name, part in module.named_modules():
        if not isinstance(part, torch.nn.Linear) or any(map(CONDITIONING.search, name.split("."))):
            continue
        words = name.split(".")
        numbers = [at for at in range(1, len(words)) if ".".join(words[:at]) in repeated]
        if numbers:
            starred = ["*" if at in numbers else word for at, word in enumerate(words)]
            endings[".".join(starred[numbers[-1] - 1 :])] = None
    if not endings:
        raise PluginError(
            f"found no linear layers in repeated blocks of {type(module).__name__} to put a LoRA on",
            hint="name them in the generator's lora_targets",
        )
    return list(endings)
