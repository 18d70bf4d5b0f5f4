"""The repeated blocks of a model: nearly all of its weights and time, and what is compiled or offloaded one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def holds_blocks(module: nn.Module) -> bool:
    """Whether a module is a list of blocks: a `ModuleList` whose members all consist of modules."""
    import torch

    members = list(module.children()) if isinstance(module, torch.nn.ModuleList) else []  # without entries of None
    return bool(members) and all(any(block.children()) for block in members)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The members of a model's outermost lists of blocks (`ModuleList`) that have weights, in the model's order."""
    found: list[nn.Module] = []
    for child in model.children():
        if holds_blocks(child):
            found += [block for block in child.children() if any(True for _ in block.parameters())]
        else:
            found += repeated_blocks(child)
    return found


def recomputed_blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks; of blocks that checkpoint their parts one by one (U-Nets), the parts instead.

    Checkpointing calls these, and nothing around them, to recompute their activations.
    """
    found: list[nn.Module] = []
    for block in repeated_blocks(model):
        # diffusers sets this on a block that checkpoints its parts. In transformers, the class of blocks that are
        # recomputed as a whole has it.
        parts = recomputed_blocks(block) if "gradient_checkpointing" in vars(block) else []
        found += parts or [block]
    return found


RECOMPILE_LIMIT = 64
"""Torch compiles the code of a block at most so often, by default 8 times, and then leaves it uncompiled. All blocks of
transformers share the code of one wrapper."""


def compile_blocks(model: nn.Module, *, dynamic: bool) -> None:
    """Compile the `forward` of each repeated block with `torch.compile`, at its first use.

    Blocks of one class share the result, so a model of 57 blocks takes as long to compile as one block ("regional
    compilation"). With `dynamic`, one result is for all sizes, else each size has its own. Torch's default, a second
    result for all sizes, makes checkpointing fail: it may recompute a block with another result than before
    (pytorch/pytorch#166926). Set up checkpointing that wraps the `forward` of blocks after this call: torch silently
    leaves a `forward` uncompiled that is a checkpointed one.
    """
    import torch
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
    for block in repeated_blocks(model):
        block.forward = torch.compile(block.forward, dynamic=dynamic)
