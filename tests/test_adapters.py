"""`lora_off`: the LoRA is off within, and afterwards as it was before."""

from __future__ import annotations

import pytest
import torch

from dualproc.engine import lora
from dualproc.kit.adapters import lora_off
from dualproc.spec import Lora


@pytest.fixture
def module() -> torch.nn.Module:
    """A linear layer with a LoRA; none of its weights is trainable."""
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    for weight in lora.attach(module, Lora(rank=1), ["0"], seed=0):
        torch.nn.init.ones_(weight.requires_grad_(False))
    return module.requires_grad_(False)


def is_on(module: torch.nn.Module) -> bool:
    given = torch.ones(1, 2)
    return not torch.equal(module(given), module[0].base_layer(given))  # type: ignore[index]


def test_the_lora_is_off_within(module: torch.nn.Module) -> None:
    with lora_off(module):
        assert not is_on(module)
    assert is_on(module)
    with lora_off(module, False):
        assert is_on(module)


def test_nested_the_lora_stays_off_until_the_outer_context_ends(module: torch.nn.Module) -> None:
    with lora_off(module):
        with lora_off(module):
            assert not is_on(module)
        assert not is_on(module)
        with pytest.raises(KeyError), lora_off(module):
            raise KeyError
        assert not is_on(module)
    assert is_on(module)


def test_requires_grad_does_not_change(module: torch.nn.Module) -> None:
    with lora_off(module):
        assert not any(weight.requires_grad for weight in module.parameters())
    assert not any(weight.requires_grad for weight in module.parameters())
