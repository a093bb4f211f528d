"""From videos to frozen features: one vector per view, computed once, faults reported and never replaced."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.devices import choose_device, default_workers, room_for
from unreel.core.errors import DataError, UsageError
from unreel.core.files import WriteError
from unreel.core.memory import keep_freed_memory
from unreel.core.modules import device_of, evaluating
from unreel.core.progress import Progress
from unreel.core.words import counted, plural
from unreel.data.batch import Fault
from unreel.data.manifest import Source
from unreel.data.sampling import ClipPlan
from unreel.data.windows import windowed
from unreel.nn.encoder import Encoder
from unreel.protocols.clips import ClipSource, as_clip_source, noun_of
from unreel.protocols.compute import USUAL, Compute, sorted_options
from unreel.protocols.pooling import Pooling, PoolingLike
from unreel.protocols.store import FeatureTable, TableKey, encoder_digest

# Clips per forward pass so that a batch has about this many pixels: 16 clips of 16 × 112² (CPU), 16 times that (CUDA).
_PIXELS_CPU = 16 * 16 * 112 * 112
_PIXELS_CUDA = 16 * _PIXELS_CPU
_MAX_BATCH = 512
# Videos whose features wait to be written together: what a killed run loses.
_ROWS_PER_COMMIT = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """Frozen features of N sources, in the order of the data; sources that could not be read are not among them.

    Attributes:
        vectors: (N, D) float32, the mean over views.
        ids: (N,) text, path and span ("cat/1.mp4", "cat/1.mp4#0-2.5"); unique unless a source is listed twice.
        labels, groups: (N,) text, empty where a source has none; ``None`` where no source has any.
        faults: what could not be read and why.
        per_view: (N, V, D) float32, so that averaging stays the protocol's choice; (N, 1, D), the mean over views, for
            a pooling that does not keep them.
        rows: (N,) position of each source in the data.
        sources: (N,) names by file and span: one for a file under several names, others for equal files elsewhere.
        paths, spans: absolute paths, and (start, end) seconds or ``None`` for whole files.
        num_asked: sources in the data, readable or not. noun: what one of them is called, "video" or "image".
        clips: the digest of how clips were cut. pooling: how maps became vectors (``Pooling.key``).
    """

    vectors: NDArray[np.float32]
    ids: NDArray[Any]
    labels: NDArray[Any] | None
    groups: NDArray[Any] | None
    faults: tuple[Fault, ...]
    per_view: NDArray[np.float32]
    rows: NDArray[np.int64]
    sources: NDArray[Any]
    paths: tuple[str, ...] = ()
    spans: tuple[tuple[float, float | None] | None, ...] = ()
    num_asked: int = 0
    noun: str = "source"
    clips: str = ""
    pooling: str = ""

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def views(self) -> NDArray[np.float32]:
        """``per_view``, or (N, D) where there is one view."""
        return self.per_view if self.per_view.shape[1] > 1 else self.per_view[:, 0]

    def select(self, index: Sequence[int] | NDArray[Any]) -> Embeddings:
        """The sources at these positions or under this mask; faults stay."""
        at = np.asarray(index)
        chosen = np.flatnonzero(at) if at.dtype == bool else at.astype(np.int64)
        kept: dict[str, Any] = {k: v[chosen] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        for name in ("paths", "spans"):
            values = getattr(self, name)
            kept[name] = tuple(values[i] for i in chosen) if values else ()
        return replace(self, **kept)


@contextmanager
def evaluation_mode(encoder: Encoder, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """The encoder in evaluation mode on a device; each module's mode, and the device, are put back afterwards."""
    home = device_of(encoder)
    # An encoder that somebody moved stays; from the CPU it goes where there is more.
    target = choose_device(device) if device is not None or home.type == "cpu" else home
    with evaluating(encoder):
        encoder.to(target)
        try:
            yield target
        finally:
            encoder.to(home)


@dataclass
class _Job:
    """One encoder's share of an embedding: what the store knew, what is still to do, what was computed.

    Views of several rows are collected into forward passes of one size. ``waiting``: rows and their numbers of views,
    whose clips lie in ``parts`` in order; ``done``: vectors whose row is not complete yet.
    """

    encoder: Encoder
    layer: str
    device: torch.device
    pooling: Pooling
    compute: Compute
    names: Sequence[str]
    keys: dict[int, str]
    table: FeatureTable | None
    waiting: list[tuple[int, int]] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)
    done: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    num_views: dict[int, int] = field(default_factory=dict)
    fresh: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stored = {} if self.table is None else self.table.get(list(self.keys.values()))
        self.found = {row: stored[k] for row, k in self.keys.items() if k in stored}
        # The same source listed twice is read once: by the first row that lists it.
        self.first: dict[str, int] = {}
        for row, k in self.keys.items():
            if row not in self.found:
                self.first.setdefault(k, row)
        self.todo = set(self.first.values())

    def push(self, row: int, views: Tensor, num_views: int) -> None:
        """Add a row's different views (V, T, S, S, C), and encode what makes whole forward passes."""
        self.num_views[row] = num_views
        if self.parts and self.parts[0].shape[1:] != views.shape[1:]:
            self.encode(everything=True)
        self.waiting.append((row, len(views)))
        self.parts.append(views)
        if sum(map(len, self.parts)) >= self._size(views):
            self.encode(everything=False)

    def _size(self, views: Tensor) -> int:
        """Clips per forward pass."""
        if self.compute.batch_size is not None:
            return self.compute.batch_size
        pixels = views.shape[1] * views.shape[2] * views.shape[3]
        room = _PIXELS_CPU if self.device.type == "cpu" else _PIXELS_CUDA
        return max(1, min(_MAX_BATCH, room // pixels))

    def encode(self, *, everything: bool) -> None:
        """Encode what waits, a rest that makes no whole pass included or not; keep the rows that are finished."""
        if not self.parts:
            return
        together, size = torch.cat(self.parts), self._size(self.parts[0])
        used = len(together) if everything else len(together) // size * size
        outputs = [self.done] if self.done.numel() else []
        outputs += [self._forward(together[start : min(start + size, used)]) for start in range(0, used, size)]
        self.parts = [together[used:]] if used < len(together) else []
        self.done = torch.cat(outputs)
        while self.waiting and len(self.done) >= self.waiting[0][1]:
            row, views = self.waiting.pop(0)
            vectors, self.done = self.done[:views], self.done[views:]
            self._keep(row, vectors.numpy())

    def _forward(self, clips: Tensor) -> Tensor:
        """uint8 clips (B, T, H, W, C) to (B, D), float32 on the CPU."""
        encoder, layer = self.encoder, self.layer
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.compute.precision == "bfloat16"):
            x = encoder.prepare(clips.to(self.device, non_blocking=True))
            weight = next(encoder.parameters(), None)
            if weight is not None and weight.is_floating_point():
                x = x.to(weight.dtype)
            if self.pooling.kind == "encoder" and layer == encoder.last_stage:
                out = encoder(x)
            else:
                out = self.pooling(encoder, encoder.forward_features(x, [layer])[layer], layer)
        vectors: Tensor = out.to(torch.float32).cpu()
        return vectors

    def _keep(self, row: int, vectors: NDArray[np.float32]) -> None:
        if not np.isfinite(vectors).all():
            raise DataError(
                f"{self.names[row]}: its embedding is not finite; the encoder's weights have diverged, "
                "or bfloat16 is too coarse for it"
            )
        if not self.pooling.keep_views:
            vectors = vectors.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
        elif len(vectors) < self.num_views[row]:
            vectors = np.repeat(vectors, self.num_views[row], 0)
        self.found[row] = self.fresh[self.keys[row]] = vectors
        if len(self.fresh) >= _ROWS_PER_COMMIT:
            self._commit()

    def _commit(self) -> None:
        if self.table is not None and self.fresh:
            self.table.put(self.fresh)
        self.fresh = {}

    def finish(self, faults: dict[int, Fault]) -> None:
        """Encode and store what is left, and give what the first of equal rows got to the others."""
        self.encode(everything=True)
        self._commit()
        for row, k in self.keys.items():
            twin = self.first.get(k, row)
            if row not in self.found and twin in self.found:
                self.found[row] = self.found[twin]
            elif row not in self.found and twin in faults:
                faults.setdefault(row, faults[twin])


def embed(
    encoder: Encoder,
    data: Source | ClipSource,
    *,
    clips: ClipPlan | None = None,
    layer: str | None = None,
    pooling: PoolingLike = None,
    label: str | None = None,
    group: str | None = None,
    window: float | None = None,
    every: float | None = None,
    **options: Any,
) -> Embeddings:
    """One vector per view of each source, or their mean, from a frozen encoder.

    The encoder runs in evaluation mode without gradient and is left exactly as it was. A source that cannot be read is
    reported in ``faults`` and left out; nothing takes its place.

    Args:
        encoder: see ``unreel.nn.encoder``.
        data: a folder, a manifest, a list of paths, or clips in memory (``ArrayClips``).
        clips: which clips and crops of each source; ``None``: as the encoder was trained (``default_plan``).
        layer: a stage name; ``None``: the last.
        pooling: how the stage's map becomes a vector (``Pooling``, or a name such as "max-1x2x2"); ``None``: as the
            encoder does it.
        label, group: which columns of a manifest to carry along; ``None``: those that it means, if it has them.
        window, every: seconds; a source for each window of a file instead of the whole (``data.windows.windowed``).
        options: device, workers, batch_size, store, precision, decoder, progress: see ``Compute``.
    Raises: UsageError for an unknown layer, data of a wrong kind, or a pooling that does not fit the map; DataError for
        missing files, no readable source, or an embedding that is not finite.
    """
    (compute,) = sorted_options(options, Compute)
    source = as_clip_source(
        windowed(data, window, every), encoder, clips, label=label, group=group, decoder=compute.decoder
    )
    return embed_all([encoder], source, layer=layer, pooling=pooling, compute=compute)[0]


def embed_all(
    encoders: Sequence[Encoder],
    data: ClipSource,
    *,
    layer: str | None = None,
    pooling: PoolingLike | Sequence[PoolingLike] = None,
    compute: Compute = USUAL,
) -> list[Embeddings]:
    """``embed`` with several encoders on the same clips: each source is decoded once for all of them.

    ``pooling`` is one for all encoders, or one for each.
    """
    names = list(data.ids)
    keys: dict[int, str] = {}
    faults: dict[int, Fault] = {}
    for row, name in enumerate(names):
        try:
            keys[row] = data.source(row)
        except DataError as error:
            faults[row] = Fault(name, type(error).__name__, str(error), "", -1)
    asked = [pooling] * len(encoders) if pooling is None or isinstance(pooling, str | Pooling) else list(pooling)
    if len(asked) != len(encoders):
        raise UsageError(f"pooling: expected one, or one for each of {len(encoders)} encoders, got {len(asked)}")
    poolings = [Pooling.of(p).resolved(encoder) for p, encoder in zip(asked, encoders, strict=True)]
    keep_freed_memory()
    held = compute.features
    jobs: list[_Job] = []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        for encoder, pooled in zip(encoders, poolings, strict=True):
            stage = encoder.check_names(None if layer is None else [layer])[0]
            table: FeatureTable | None = None
            if held is not None:
                key = TableKey(encoder_digest(encoder), data.digest, stage, compute.precision, pooled.key)
                try:
                    table = stack.enter_context(held.open(key))
                except (WriteError, DataError) as error:
                    if held.asked_for:
                        raise
                    _log.info("%s. Embeddings are computed, and not kept", error)
            target = stack.enter_context(evaluation_mode(encoder, compute.device))
            jobs.append(_Job(encoder, stage, target, pooled, compute, names, keys, table))
        todo = sorted(set().union(*(job.todo for job in jobs)))
        known = sum(all(row in job.found for job in jobs) for row in keys)
        if held is not None and known:
            _log.info("%d of %s: embedded before, read from %s", known, counted(len(names), noun_of(data)), held.root)
        if todo:
            usual = max(default_workers(job.device) for job in jobs)
            workers = usual if compute.workers is None else compute.workers
            stack.enter_context(room_for(usual))
            report, before = compute.progress, len(names) - len(todo)
            if report is True:
                report = stack.enter_context(Progress("embed", len(names), unit=plural(noun_of(data))))
                report.resume_at(before)
            for done, (row, views) in enumerate(zip(todo, data.read(todo, workers=workers), strict=True), before + 1):
                if isinstance(views, Fault):
                    faults[row] = views
                else:
                    # The clips of a still image are all equal: one is encoded, its vector stands for each.
                    different = views[:1] if all(torch.equal(views[0], v) for v in views[1:]) else views
                    for job in jobs:
                        if row in job.todo:
                            job.push(row, different, len(views))
                if callable(report):
                    report(done, len(names))
        for job in jobs:
            job.finish(faults)
    return [_assemble(data, job, tuple(faults[r] for r in sorted(faults))) for job in jobs]


def _assemble(source: ClipSource, job: _Job, faults: tuple[Fault, ...]) -> Embeddings:
    found, names = job.found, job.names
    rows = sorted(found)
    if not rows:
        listed = "\n".join(f"  {f.message}" for f in faults[:3])
        raise DataError(f"none of {len(names)} sources could be read:\n{listed}")
    if len({found[r].shape for r in rows}) > 1:
        raise DataError("sources differ in their number of views; use one clip plan for all")
    per_view = np.stack([found[r] for r in rows])
    places = [source.location(r) for r in rows]

    def chosen(values: Sequence[str] | None) -> NDArray[Any] | None:
        return None if values is None else np.array([values[r] for r in rows])

    # Of one view the mean is itself: no second copy of what may be large.
    one = per_view.shape[1] == 1
    return Embeddings(
        vectors=per_view[:, 0] if one else per_view.mean(1, dtype=np.float64).astype(np.float32),
        ids=np.array([names[r] for r in rows]),
        labels=chosen(source.labels),
        groups=chosen(source.groups),
        faults=faults,
        per_view=per_view,
        rows=np.array(rows, dtype=np.int64),
        sources=np.array([job.keys[r] for r in rows]),
        paths=tuple(path for path, _ in places),
        spans=tuple(span for _, span in places),
        num_asked=len(names),
        noun=noun_of(source),
        clips=source.digest,
        pooling=job.pooling.key,
    )


def merge_faults(parts: Iterable[Embeddings]) -> tuple[Fault, ...]:
    """Faults of several embeddings, each once."""
    return tuple(dict.fromkeys(f for part in parts for f in part.faults))
