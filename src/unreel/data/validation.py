"""Held-out videos as batches whose draws never change: the same frames and crops at every measurement."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from unreel.core.checks import Count, checked
from unreel.data.batch import Batch, Fault, Sample, collate
from unreel.data.dataset import ClipDataset
from unreel.data.loader import iterate_rows

_log = logging.getLogger("unreel.data")

# Videos per forward pass at most: their graph is not kept, but a global batch of a thousand would still be large.
_MOST_TOGETHER = 64
# Batches whose draws do not change are kept in memory up to this size, decoded once for the whole run.
_KEPT_BYTES = 512 * 1024 * 1024


@checked
class ValidationLoader:
    """Batches of all rows of a dataset, in an order that depends on no row's number, of nearly equal sizes.

    A video that cannot be read is left out, with a warning; nothing takes its place.

    Args:
        dataset: the held-out rows, with the sampler and the views to measure with.
        batch_size: videos per batch, 64 at most.
        options: ``workers``, ``timeout_s``, ``start_method``, as in :class:`unreel.data.loader.ClipLoader`.
    """

    def __init__(
        self,
        dataset: ClipDataset,
        batch_size: Count,
        **options: Any,
    ) -> None:
        self.dataset = dataset
        self.options = options
        rows = sorted(range(len(dataset)), key=dataset.manifest.sample_id)
        parts = -(-len(rows) // min(batch_size, _MOST_TOGETHER))
        self.rows = [part.tolist() for part in np.array_split(np.array(rows), parts)]
        self.unreadable: dict[str, str] = {}
        self._kept: dict[int, Batch | None] = {}
        self._room = _KEPT_BYTES

    def __len__(self) -> int:
        return len(self.rows)

    def iterate(self, numbers: Sequence[int], *, draw: int = -1) -> Iterator[Batch | None]:
        """The batches of these numbers; None where none of a batch's videos can be read.

        ``draw``: −1 gives the same draws every time, another number draws anew for each.
        """
        missing = [n for n in numbers if draw >= 0 or n not in self._kept]
        samples = iterate_rows(
            partial(self.dataset.read, epoch=draw),
            self.dataset.manifest,
            [row for n in missing for row in self.rows[n]],
            **self.options,
        )
        for number in numbers:
            if number not in missing:
                yield self._kept[number]
                continue
            batch = self._collate([next(samples) for _ in self.rows[number]])
            if draw < 0:
                self._keep(number, batch)
            yield batch

    def _collate(self, found: Sequence[Sample | Fault]) -> Batch | None:
        for entry in found:
            if isinstance(entry, Fault) and entry.path not in self.unreadable:
                self.unreadable[entry.path] = entry.message
                _log.warning("validation goes on without %s: %s", entry.path, entry.message)
        readable = [entry for entry in found if isinstance(entry, Sample)]
        return collate(readable) if readable else None

    def _keep(self, number: int, batch: Batch | None) -> None:
        size = 0 if batch is None else sum(view.data.nbytes for view in batch.views)
        if size <= self._room:
            self._kept[number] = batch
            self._room -= size
