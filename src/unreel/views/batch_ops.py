"""Batch operations: the only place where samples mix. They run on the device, after the views are applied."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from unreel.core.keys import Key
from unreel.data.batch import Batch


@runtime_checkable
class BatchOperation(Protocol):
    """Mixes samples of a batch. Draws come from the key (seed, step); memory lives in ``state_dict``."""

    def __call__(self, batch: Batch, key: Key) -> Batch:
        """A new batch; the input is not mutated. What was mixed is recorded in ``targets``."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything the next call depends on besides its arguments."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""
