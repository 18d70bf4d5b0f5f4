"""The ledger of a dry run: which tensors are alive on which device, and what is computed."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAIN = "main memory"
"""Where offloaded weights are kept."""


@dataclass
class Account:
    """Bytes on one device."""

    live: int = 0
    """Of all tensors that are alive now."""
    peak: int = 0
    """The largest value of `live` since `Ledger.restart`."""
    kept: int = 0
    """The value of `live` when the backward pass began, the first since `Ledger.restart`."""

    def take(self, size: int) -> None:
        """Count more bytes."""
        self.live += size
        self.peak = max(self.peak, self.live)


class Ledger:
    """Counts the memory of a dry run's tensors, device by device, and the floating-point operations.

    A tensor is on the device of the weights it was computed from, or else of the first tensor. What is computed from
    offloaded weights, copies included, is on the device that they are copied to.
    """

    def __init__(self) -> None:
        self.device = "cpu"
        """The device of the model being built."""
        self.offloading = False
        """Whether the weights of the model being built stay in main memory."""
        self.accounts: dict[str, Account] = defaultdict(Account)
        self.operations: dict[torch.dtype, int] = defaultdict(int)
        """Floating-point operations since `restart`, by the precision of their results."""
        self._backward = False
        self._storages: dict[int, _Entry] = {}

    def restart(self) -> None:
        """Start counting again from the tensors that are alive."""
        self._backward = False
        self.operations.clear()
        for account in self.accounts.values():
            account.peak = account.kept = account.live

    def begin_backward(self) -> None:
        """Record what is alive when the backward pass begins."""
        if not self._backward:
            self._backward = True
            for account in self.accounts.values():
                account.kept = account.live

    def device_of(self, tensors: Sequence[Tensor]) -> str:
        """The device of what is computed from these tensors."""
        from torch.nn import Parameter

        known = [each for each in tensors if each.untyped_storage()._cdata in self._storages]
        first = next((each for each in known if isinstance(each, Parameter)), known[0] if known else None)
        return self.device if first is None else self._storages[first.untyped_storage()._cdata].device

    def add(self, tensor: Tensor, device: str, *, weight: bool = False) -> None:
        """Count a tensor, unless its storage is counted already; `weight`: of a model being built."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return

        def gone(_: Any) -> None:
            entry = self._storages.pop(key)
            entry.account.live -= size

        account = self.accounts[MAIN if weight and self.offloading else device]
        account.take(size)
        self._storages[key] = _Entry(device, account, weakref.ref(storage, gone))

    def move(self, tensor: Tensor) -> None:
        """A weight was moved from main memory to the device of its model."""
        storage = tensor.untyped_storage()
        entry = self._storages[storage._cdata]
        entry.account.live -= storage.nbytes()
        entry.account = self.accounts[entry.device]
        entry.account.take(storage.nbytes())


@dataclass
class _Entry:
    """A tensor's storage in the ledger."""

    device: str
    """Where its model computes."""
    account: Account
    """Where it is."""
    alive: weakref.ref[Any]
