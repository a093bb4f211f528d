"""Batches in a keyed order, from any number of workers, on any number of ranks, from any step: always the same.

The order of an epoch is a permutation of all rows, cut into global batches, cut into ranks. Everything a worker needs
to know is in its tickets, so workers, ranks and restarts change who computes a batch and never what is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Amount, Count, Range, Share, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.core.words import counted
from unreel.data.batch import Batch
from unreel.data.contracts import Ticket
from unreel.data.dataset import ClipDataset, EvaluationDataset, EvaluationSample
from unreel.data.index import index_command
from unreel.data.manifest import Manifest
from unreel.data.workers import WorkerContext, in_background, run_guarded

_EARLIER = "hung or crashed a worker earlier in this run"
# The share of faults is judged as if at least this many samples had been seen, so that one early fault stops nothing.
_SHARE_MIN_SAMPLES = 100
# So many rows of one file go to a worker together: it reads on from one to the next.
_STRETCH = 16


R = TypeVar("R")


@checked
@dataclass(eq=False, repr=False)
class ClipLoader:
    """Training batches of a :class:`ClipDataset`.

    Args:
        dataset: the samples.
        batch_size: videos per *global* batch, over all ranks, so that one recipe gives one run on any number of
            processes. Batches never shrink.
        seed: seed for the order; the run's.
        workers: processes that decode; 0 decodes in this one, without a watch over files that hang.
        rank, world_size: which slice of the global batch this process gets.
        drop_last: leave out the rows that do not fill a batch at the end of an epoch; otherwise the last batch is
            filled up with other rows of the epoch.
        timeout_s: how long a worker may have one video in hand. After that the workers are restarted at the same
            step and the file is quarantined.
        pin_memory: copy batches into page-locked memory (in a thread), for quick transfer to a CUDA device.
        quarantine: paths, as the manifest writes them, that are not to be touched: a checkpoint's. Those that make a
            worker hang or crash are added.
        max_fault_share: the run stops when more than this share of the samples had to be refilled.
        reserves: rows that stand in for a slot's, in order.
        prefetch: batches each worker makes ahead.
        start_method: "fork", "forkserver" or "spawn"; see :class:`WorkerPool`.
    Raises: UsageError for settings out of range; DataError when the data set is smaller than one global batch.
    """

    dataset: ClipDataset
    batch_size: Annotated[int, Range(ge=1, unit="videos")]
    _: KW_ONLY
    seed: int = 0
    workers: Amount = 0
    rank: int = 0
    world_size: int = 1
    drop_last: bool = True
    timeout_s: Annotated[float, Range(gt=0, unit="s")] = 120.0
    pin_memory: bool = False
    quarantine: Collection[str] = ()
    max_fault_share: Share = 0.05
    reserves: Amount = 4
    prefetch: Count = 2
    start_method: str | None = None

    def __post_init__(self) -> None:
        size, ranks, found = self.batch_size, self.world_size, len(self.dataset)
        kind = self.dataset.manifest.noun
        if not 0 <= self.rank < ranks:
            raise UsageError(f"rank {self.rank} is not one of {ranks} processes")
        if size % ranks:
            raise UsageError(
                f"the global batch of {counted(size, kind)} cannot be divided over {ranks} processes; use "
                f"{size - size % ranks or ranks} or another multiple of {ranks}"
            )
        if found < size:
            most = found - found % ranks
            advice = f"set --train.batch_size {most} or less (batch_size={most} in Python), or " if most else ""
            raise DataError(
                f"the data set has {counted(found, kind)}, fewer than one global batch of {size}; {advice}"
                f"add {kind}s (a batch with one {kind} twice would teach that {'an' if kind == 'image' else 'a'} "
                f"{kind} differs from itself)"
            )
        self.samples_seen = self.faults_seen = 0
        self.quarantine = self._quarantine = dict.fromkeys(self.quarantine, _EARLIER)
        self._orders: dict[tuple[str, int], NDArray[np.int64]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Global batches per pass over the rows."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (1 if rest and not self.drop_last else 0)

    def extend_quarantine(self, paths: Iterable[str]) -> None:
        """Leave further paths alone from the next ``iterate`` on (a checkpoint's, or another rank's)."""
        for path in paths:
            self._quarantine.setdefault(path, _EARLIER)

    def _order(self, name: str, epoch: int) -> NDArray[np.int64]:
        key = (name, epoch)
        if key not in self._orders:
            # At an epoch's end the workers are ahead of the step that is handed out: two epochs are in use.
            self._orders = {k: v for k, v in self._orders.items() if abs(k[1] - epoch) <= 1}
            self._orders[key] = Key(self.seed, name, epoch).permutation(len(self.dataset))
        return self._orders[key]

    def global_rows(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """(epoch, rows of the global batch (batch_size,)) of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._order("order", epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        if len(rows) < self.batch_size:
            others = self._candidates(epoch, step, rows, self.batch_size - len(rows))
            rows = np.concatenate([rows, others])
        return epoch, rows

    def _candidates(self, epoch: int, step: int, taken: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """Up to ``count`` rows outside ``taken``, from a second permutation, entered elsewhere at each step."""
        order = self._order("reserves", epoch)
        length = min(len(order), count + len(taken))
        begin = Key(self.seed, "reserves", "start", step).integer(0, len(order))
        window = order[(begin + np.arange(length)) % len(order)]
        return window[~np.isin(window, taken)][:count]

    def tickets(self, step: int) -> list[Ticket]:
        """This rank's slots of a step: a pure function of (seed, step, rank, world size, number of rows).

        Reserves are disjoint from the global batch and from every other slot's.
        """
        epoch, rows = self.global_rows(step)
        spare = self._candidates(epoch, step, rows, self.batch_size * self.reserves)
        local = self.batch_size // self.world_size
        return [
            Ticket(epoch, step, int(rows[slot]), tuple(spare[slot :: self.batch_size].tolist()))
            for slot in range(self.rank * local, (self.rank + 1) * local)
        ]

    def first(self, samples: int) -> Batch:
        """The first ``samples`` of step 0, read in this process; for a look at what training sees."""
        return self.dataset.batch(self.tickets(0)[:samples], WorkerContext(self._quarantine))

    def iterate(self, start_step: int = 0, total_steps: int | None = None) -> Iterator[Batch]:
        """The batches of steps start_step, …, total_steps − 1 (one epoch where None).

        Starting at step k gives what a run from 0 gives at k. Close the iterator, or exhaust it, to end the workers.

        Raises: DataError when a slot cannot be filled or too many samples had to be refilled.
        """
        if start_step < 0:
            raise UsageError(f"the first step must not be negative, got {start_step}")
        last = self.steps_per_epoch if total_steps is None else total_steps
        batches = run_guarded(
            self.dataset.batch,
            lambda done: map(self.tickets, range(start_step + done, last)),
            self.dataset.manifest.relative,
            workers=self.workers,
            quarantine=self._quarantine,
            timeout_s=self.timeout_s,
            prefetch=self.prefetch,
            pin_memory=self.pin_memory,
            start_method=self.start_method,
        )
        if self.pin_memory:
            batches = in_background(batches) if self.workers else (batch.pin_memory() for batch in batches)
        try:
            for batch in batches:
                self._count(batch)
                yield batch
        finally:
            batches.close()

    def _count(self, batch: Batch) -> None:
        self.samples_seen += len(batch)
        self.faults_seen += len(batch.faults)
        if self.faults_seen > self.max_fault_share * max(self.samples_seen, _SHARE_MIN_SAMPLES):
            last = "\n".join(f"  {f.message}" for f in batch.faults[-3:])
            raise DataError(
                f"{self.faults_seen} of {self.samples_seen} samples could not be read and were refilled, more than "
                f"the share of {self.max_fault_share:g} (max_fault_share) that a run tolerates. The last:\n{last}\n"
                "All are in the run's faults.jsonl; to list every file that is damaged anywhere, run\n"
                f"  {index_command(self.dataset.manifest)}"
            )


def iterate_evaluation(
    dataset: EvaluationDataset, rows: Sequence[int] | None = None, **options: Any
) -> Iterator[EvaluationSample]:
    """The samples of ``rows`` (all where None) as :func:`iterate_rows` gives them, with its options."""
    return iterate_rows(dataset.read, dataset.manifest, rows, **options)


def iterate_rows(
    read: Callable[[int, WorkerContext], R],
    manifest: Manifest,
    rows: Sequence[int] | None = None,
    *,
    workers: int = 0,
    timeout_s: float = 120.0,
    **options: Any,
) -> Iterator[R]:
    """The samples of ``rows`` (all where None), in order; a file that hangs or crashes a worker is a fault.

    Args:
        read: reads a row, an unreadable one as what says so; ``attempt`` of ``unreel.data.rows`` helps. Picklable.
        manifest: whose rows.
        workers: processes that decode; 0 decodes in this one.
        timeout_s, options: as in :func:`unreel.data.workers.run_guarded`.
    Raises: DataError when workers are killed or die without a file in hand.
    """
    chosen = range(len(manifest)) if rows is None else rows
    options |= {"workers": workers, "timeout_s": timeout_s, "quarantine": {}}
    if not workers:
        yield from run_guarded(read, lambda done: chosen[done:], manifest.relative, **options)
        return
    stretches: list[list[int]] = []
    for row in chosen:
        if stretches and len(stretches[-1]) < _STRETCH and manifest.same_file(row, stretches[-1][-1]):
            stretches[-1].append(row)
        else:
            stretches.append([row])
    read_all = partial(_read_all, read)
    for found in run_guarded(read_all, lambda done: stretches[done:], manifest.relative, **options):
        yield from found


def _read_all(read: Callable[[int, WorkerContext], R], rows: Sequence[int], context: WorkerContext) -> list[R]:
    return [read(row, context) for row in rows]
