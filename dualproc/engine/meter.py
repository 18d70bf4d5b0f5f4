"""The books of a dry run: which tensors live where, and what is done to them."""

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
"""Where weights are kept that are copied to a device while they are used."""


@dataclass
class Account:
    """Bytes on one device."""

    live: int = 0
    """Of all tensors that there are at the moment."""
    peak: int = 0
    """The most that it was since `Meter.restart`."""
    kept: int = 0
    """What it was when the backward pass began, the first since `Meter.restart`."""


class Meter:
    """What the tensors of a dry run take, device by device, and what is done to them.

    A tensor is on the device of the weights that it was made from, or else of the first tensor; what is made from
    weights in main memory, copies too, is on the device that they are kept for.
    """

    def __init__(self) -> None:
        self.device = "cpu"
        """Where models are being built."""
        self.offloading = False
        """Whether their weights are kept in main memory."""
        self.accounts: dict[str, Account] = defaultdict(Account)
        self.operations: dict[torch.dtype, int] = defaultdict(int)
        """Floating-point operations since `restart`, by the precision of their results."""
        self._backward = False
        self._storages: dict[int, tuple[str, weakref.ref[Any]]] = {}

    def restart(self) -> None:
        """Forget all but what lives."""
        self._backward = False
        self.operations.clear()
        for account in self.accounts.values():
            account.peak = account.kept = account.live

    def begin_backward(self) -> None:
        """Note what is kept for it."""
        if not self._backward:
            self._backward = True
            for account in self.accounts.values():
                account.kept = account.live

    def place_of(self, tensors: Sequence[Tensor]) -> str:
        """The device of what is made from these."""
        from torch.nn import Parameter

        known = [each for each in tensors if each.untyped_storage()._cdata in self._storages]
        first = next((each for each in known if isinstance(each, Parameter)), known[0] if known else None)
        return self.device if first is None else self._storages[first.untyped_storage()._cdata][0]

    def see(self, tensor: Tensor, device: str, *, weight: bool = False) -> None:
        """Count a tensor, unless it shares its memory with one that is counted; `weight`: of a model being built."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        account = self.accounts[MAIN if weight and self.offloading else device]

        def gone(_: Any) -> None:
            del self._storages[key]
            account.live -= size

        self._storages[key] = (device, weakref.ref(storage, gone))
        account.live += size
        account.peak = max(account.peak, account.live)
