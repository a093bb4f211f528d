"""Where the loop's batches come from, and how one gets to the device with its views applied."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sized
from dataclasses import replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch

from unreel.core.errors import DataError
from unreel.data.batch import Batch
from unreel.data.contracts import SupportsViews


@runtime_checkable
class SeekableLoader(Protocol):
    """A loader that can start at any step, as ``unreel.data.loader.ClipLoader`` can: no batch is read twice."""

    def iterate(self, start_step: int = 0, total_steps: int | None = None) -> Iterable[Batch]:
        """Batches ``start_step``, …, ``total_steps`` − 1, over as many epochs as that takes."""


Loader: TypeAlias = Iterable[Batch] | SeekableLoader


def steps_per_epoch(loader: Loader) -> int | None:
    """Batches in one pass over the loader; None when it does not say."""
    known = getattr(loader, "steps_per_epoch", None)
    if known is None:
        known = len(loader) if isinstance(loader, Sized) else None
    return int(known) if known else None


def batches_from(loader: Loader, start: int, total: int) -> Generator[Batch, None, None]:
    """Batches ``start``, …, ``total`` − 1; a plain iterable that ends is started again."""
    if isinstance(loader, SeekableLoader):
        position = start
        for batch in loader.iterate(start, total):
            position += 1
            yield batch
        raise DataError(f"the loader ended after {position} of {total} batches")
    length = steps_per_epoch(loader)
    skip = start % length if length else start
    while True:
        count = 0
        for batch in loader:
            count += 1
            if count > skip:
                yield batch
        if not count:
            raise DataError(
                "the loader is empty, or it is a generator, which cannot be started again; pass a list or a loader"
            )
        skip = max(0, skip - count)  # without a length, the passes before ``start`` are counted by reading them


def place(views: SupportsViews, batch: Batch, device: torch.device) -> Batch:
    """The batch on the device, its uint8 views applied; views that are float already are left as they are.

    Parameters stay on the host until the views are applied: what is touched is decided there, and reading them back
    from the device would wait for the step before.
    """
    if any(view.data.dtype == torch.uint8 for view in batch.views):
        moved = (replace(v, data=v.data.to(device, non_blocking=True)) for v in batch.views)
        batch = views.apply(replace(batch, views=tuple(moved)))
    return batch.to(device, non_blocking=True)
