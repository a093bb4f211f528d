"""From videos to frozen features: one vector per view, computed once, faults reported and never replaced."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.devices import choose_device, default_workers, room_for
from unreel.core.digests import mapping_digest
from unreel.core.errors import DataError, UsageError
from unreel.core.memory import keep_freed_memory
from unreel.core.progress import Progress
from unreel.core.text import shown
from unreel.core.words import plural
from unreel.data.batch import Fault
from unreel.data.dataset import EvaluationDataset
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.nn.encoder import Encoder, InputSpec
from unreel.protocols.compute import USUAL, Compute, Precision, ProgressLike, sorted_options
from unreel.protocols.pooling import Pooling, PoolingLike
from unreel.protocols.store import FeatureTable, TableKey, encoder_digest

# Clips per forward pass so that a batch has about this many pixels: 16 clips of 16 × 112² (CPU), 16 times that (CUDA).
_PIXELS_CPU = 16 * 16 * 112 * 112
_PIXELS_CUDA = 16 * _PIXELS_CPU
_MAX_BATCH = 512
# Videos whose features wait to be written together: what a killed run loses.
_ROWS_PER_COMMIT = 64


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

    def select(self, index: Sequence[int] | NDArray[Any]) -> Embeddings:
        """The sources at these positions or under this mask; faults stay."""
        at = np.asarray(index)
        chosen = np.flatnonzero(at) if at.dtype == bool else at.astype(np.int64)
        return replace(
            self,
            vectors=self.vectors[chosen],
            ids=self.ids[chosen],
            labels=None if self.labels is None else self.labels[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            per_view=self.per_view[chosen],
            rows=self.rows[chosen],
            sources=self.sources[chosen],
            paths=tuple(self.paths[i] for i in chosen) if self.paths else (),
            spans=tuple(self.spans[i] for i in chosen) if self.spans else (),
        )


@runtime_checkable
class ClipSource(Protocol):
    """Anything whose test clips can be embedded. ``ManifestClips`` reads files, ``ArrayClips`` holds arrays."""

    @property
    def digest(self) -> str:
        """How clips are cut: part of the store's key."""

    @property
    def ids(self) -> Sequence[str]:
        """A readable name per source."""

    @property
    def labels(self) -> Sequence[str] | None:
        """One label per source, or None."""

    @property
    def groups(self) -> Sequence[str] | None:
        """One group per source, or None."""

    def source(self, row: int) -> str:
        """Name of a source by what it is and span. Raises DataError when it cannot be named."""

    def location(self, row: int) -> tuple[str, tuple[float, float | None] | None]:
        """Absolute path and span; an empty path for what is no file."""

    def read(self, rows: Sequence[int], *, workers: int = 0) -> Iterator[Tensor | Fault]:
        """Views (V, T, S, S, C) uint8 of each row in order, or its fault."""


def default_plan(spec: InputSpec, *, num_clips: int = 4) -> ClipPlan:
    """Test clips as the encoder was trained: its frames, stride and size; ``num_clips`` clips, one centre crop.

    An encoder of single frames sees ``num_clips`` frames spread over a video, not its first alone.
    """
    return ClipPlan(
        num_frames=spec.num_frames,
        stride=spec.stride_frames,
        num_clips=num_clips,
        num_crops=1,
        size_px=spec.size_px,
        short_side_px=spec.size_px,
    )


def source_names(manifest: Manifest) -> list[str]:
    """A readable name per row: relative path, and the span where there is one; equal only where rows are."""
    names = []
    frames_of: dict[str, set[tuple[str, ...]]] = {}
    for row in manifest:
        name = shown(row.path or f"{row.frames[0]}+{len(row.frames) - 1}")
        if row.start_s is not None or row.end_s is not None:
            name += f"#{row.start_s or 0:.12g}-{'' if row.end_s is None else f'{row.end_s:.12g}'}"
        names.append(name)
        frames_of.setdefault(name, set()).add(row.frames)
    return [
        f"{name}~{mapping_digest(row.frames)[:8]}" if len(frames_of[name]) > 1 else name
        for name, row in zip(names, manifest, strict=True)
    ]


class ManifestClips:
    """The fixed test clips of a manifest's rows.

    Args:
        data: a manifest, or what makes one (a folder, a table, a list of paths).
        plan: which clips and crops.
        label, group: which columns; those that are absent give ``None``.
        decoder: reads every row; ``None`` chooses by the kind of file.
    Raises: DataError for missing files, before anything is read.
    """

    def __init__(
        self,
        data: Source,
        plan: ClipPlan,
        *,
        label: str = "label",
        group: str = "group",
        decoder: Decoder | None = None,
    ) -> None:
        self.manifest = Manifest.open(data)
        self.manifest.check_files()
        self.plan = plan
        self.dataset = EvaluationDataset(self.manifest, plan, decoder)
        self.labels = self.manifest.labels(label) if label in self.manifest.label_names else None
        self.groups = self.manifest.groups(group) if group in self.manifest.group_names else None

    @property
    def digest(self) -> str:
        """The plan's digest: by contract all decoders give the same frames."""
        return self.plan.digest

    @property
    def ids(self) -> list[str]:
        """Relative path, and the span where there is one."""
        return source_names(self.manifest)

    def source(self, row: int) -> str:
        """As the manifest tells rows apart. Raises DataError for a missing file."""
        return self.manifest.identity(row)

    def location(self, row: int) -> tuple[str, tuple[float, float | None] | None]:
        """Absolute path and span of a row."""
        entry = self.manifest[row]
        path = str(self.manifest.absolute(row))
        if entry.start_s is None and entry.end_s is None:
            return path, None
        return path, (entry.start_s or 0.0, entry.end_s)

    def read(self, rows: Sequence[int], *, workers: int = 0) -> Iterator[Tensor | Fault]:
        """Views or fault of each row, decoded here or by worker processes."""
        for sample in iterate_evaluation(self.dataset, rows, workers=workers):
            if sample.fault is not None:
                yield sample.fault
            else:
                assert sample.views is not None
                yield sample.views


class ArrayClips:
    """Clips that are already in memory.

    Args:
        clips: uint8, (N, T, H, W, C), or (N, V, T, H, W, C) with V views each.
        labels, groups, ids: one per source; ids are numbers where not given.
    """

    def __init__(
        self,
        clips: NDArray[np.uint8] | Tensor,
        *,
        labels: Sequence[object] | NDArray[Any] | None = None,
        groups: Sequence[object] | NDArray[Any] | None = None,
        ids: Sequence[str] | None = None,
    ) -> None:
        tensor = clips if isinstance(clips, Tensor) else torch.from_numpy(np.ascontiguousarray(clips))
        if tensor.dtype != torch.uint8 or tensor.ndim not in (5, 6) or tensor.shape[0] == 0:
            raise UsageError(
                "clips: expected uint8 (N, T, H, W, C) or (N, V, T, H, W, C) with N ≥ 1, "
                f"got {tensor.dtype} {tuple(tensor.shape)}"
            )
        self.clips = tensor if tensor.ndim == 6 else tensor[:, None]
        self.ids = list(ids) if ids is not None else [f"{i:06d}" for i in range(len(tensor))]
        self.labels = None if labels is None else [str(v) for v in labels]
        self.groups = None if groups is None else [str(v) for v in groups]
        for name in ("ids", "labels", "groups"):
            values = getattr(self, name)
            if values is not None and len(values) != len(tensor):
                raise UsageError(f"{name}: expected {len(tensor)}, got {len(values)}")

    @property
    def digest(self) -> str:
        """Arrays are cut by whoever made them."""
        return "array"

    def source(self, row: int) -> str:
        """Hash of the pixels."""
        pixels = self.clips[row].contiguous()
        digest = hashlib.blake2b(str(tuple(pixels.shape)).encode(), digest_size=16)
        digest.update(pixels.numpy().tobytes())
        return digest.hexdigest()

    def location(self, row: int) -> tuple[str, tuple[float, float | None] | None]:
        """No file."""
        del row
        return "", None

    def read(self, rows: Sequence[int], *, workers: int = 0) -> Iterator[Tensor | Fault]:
        """The arrays themselves."""
        del workers
        for row in rows:
            yield self.clips[row]


class JoinedClips:
    """Several clip sources one after the other, cut alike: what is stored of one serves all.

    Args:
        parts: the sources.
        prefixes: put before each part's ids, so that equal paths in two data sets stay apart.
    Raises: UsageError when the parts are cut by different plans.
    """

    def __init__(self, parts: Sequence[ClipSource], *, prefixes: Sequence[str] | None = None) -> None:
        if len({part.digest for part in parts}) != 1:
            raise UsageError("clip sources can be joined when they are cut by one clip plan")
        self.parts = list(parts)
        named = prefixes if prefixes is not None else [""] * len(self.parts)
        self.ids = [prefix + name for prefix, part in zip(named, self.parts, strict=True) for name in part.ids]
        self.labels = self._joined([part.labels for part in self.parts])
        self.groups = self._joined([part.groups for part in self.parts])
        self._places = [(part, row) for part in self.parts for row in range(len(part.ids))]

    def _joined(self, columns: Sequence[Sequence[str] | None]) -> list[str] | None:
        if all(column is None for column in columns):
            return None
        return [
            value
            for part, column in zip(self.parts, columns, strict=True)
            for value in (column if column is not None else [""] * len(part.ids))
        ]

    @property
    def digest(self) -> str:
        """That of every part."""
        return self.parts[0].digest

    def source(self, row: int) -> str:
        """As the part names it."""
        part, own = self._places[row]
        return part.source(own)

    def location(self, row: int) -> tuple[str, tuple[float, float | None] | None]:
        """As the part says."""
        part, own = self._places[row]
        return part.location(own)

    def read(self, rows: Sequence[int], *, workers: int = 0) -> Iterator[Tensor | Fault]:
        """Each run of rows of one part is read by that part."""
        for part, run in itertools.groupby((self._places[row] for row in rows), key=lambda place: place[0]):
            yield from part.read([own for _, own in run], workers=workers)


@contextmanager
def evaluation_mode(encoder: Encoder, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """The encoder in evaluation mode on a device; each module's mode, and the device, are put back afterwards."""
    modes = [(module, module.training) for module in encoder.modules()]
    first = next(iter([*encoder.parameters(), *encoder.buffers()]), None)
    home = first.device if first is not None else torch.device("cpu")
    # An encoder that somebody moved stays; from the CPU it goes where there is more.
    target = choose_device(device) if device is not None or home.type == "cpu" else home
    encoder.eval()
    if target != home:
        encoder.to(target)
    try:
        yield target
    finally:
        if target != home:
            encoder.to(home)
        for module, mode in modes:
            module.training = mode


def encode(
    encoder: Encoder,
    clips: Tensor,
    *,
    layer: str | None = None,
    pooling: PoolingLike = None,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
) -> Tensor:
    """One batch of uint8 clips (B, T, H, W, C) to embeddings (B, D), float32 on the CPU, without gradient.

    Running statistics do not change: the encoder is in evaluation mode meanwhile.
    """
    with evaluation_mode(encoder, device) as target, torch.inference_mode():
        return _forward(encoder, clips, layer, target, precision, Pooling.of(pooling))


def _forward(
    encoder: Encoder,
    clips: Tensor,
    layer: str | None,
    device: torch.device,
    precision: Precision,
    pooling: Pooling,
) -> Tensor:
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        x = encoder.prepare(clips.to(device, non_blocking=True))
        weight = next(encoder.parameters(), None)
        if weight is not None and weight.is_floating_point():
            x = x.to(weight.dtype)
        stage = encoder.last_stage if layer is None else layer
        if pooling.kind == "encoder" and stage == encoder.last_stage:
            out = encoder(x)
        else:
            out = pooling(encoder, encoder.forward_features(x, [stage])[stage], stage)
    vectors: Tensor = out.to(torch.float32).cpu()
    return vectors


def _batch_size(views: Tensor, device: torch.device) -> int:
    pixels = views.shape[1] * views.shape[2] * views.shape[3]
    room = _PIXELS_CPU if device.type == "cpu" else _PIXELS_CUDA
    return max(1, min(_MAX_BATCH, room // pixels))


class _Batcher:
    """Collects the views of several rows into forward passes of one size; gives each row's vectors back in order."""

    def __init__(
        self,
        encoder: Encoder,
        *,
        layer: str,
        device: torch.device,
        batch_size: int | None,
        precision: Precision,
        pooling: Pooling,
    ) -> None:
        self.encoder, self.layer, self.device = encoder, layer, device
        self.batch_size, self.precision, self.pooling = batch_size, precision, pooling
        self.waiting: list[tuple[int, int]] = []  # rows and their numbers of views, whose clips lie in `parts` in order
        self.parts: list[Tensor] = []
        self.done = torch.empty(0, 0)

    def push(self, row: int, views: Tensor) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Add a row's views (V, T, S, S, C); yields the rows that are finished, (V, D) each."""
        if self.parts and self.parts[0].shape[1:] != views.shape[1:]:
            yield from self.flush()
        self.waiting.append((row, len(views)))
        self.parts.append(views)
        size = self.batch_size if self.batch_size is not None else _batch_size(views, self.device)
        if sum(map(len, self.parts)) >= size:
            yield from self._forward(size, everything=False)

    def flush(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Encode what is left."""
        if self.parts:
            size = self.batch_size if self.batch_size is not None else _batch_size(self.parts[0], self.device)
            yield from self._forward(size, everything=True)

    def _forward(self, size: int, *, everything: bool) -> Iterator[tuple[int, NDArray[np.float32]]]:
        together = torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]
        used = len(together) if everything else len(together) // size * size
        outputs = [self.done] if self.done.numel() else []
        for start in range(0, used, size):
            batch = together[start : min(start + size, used)]
            outputs.append(_forward(self.encoder, batch, self.layer, self.device, self.precision, self.pooling))
        self.parts = [together[used:]] if used < len(together) else []
        self.done = torch.cat(outputs)
        while self.waiting and len(self.done) >= self.waiting[0][1]:
            row, views = self.waiting.pop(0)
            vectors, self.done = self.done[:views], self.done[views:]
            yield row, vectors.numpy()


class _Job:
    """One encoder's share of an embedding: what the store knew, what is still to do, what was computed."""

    def __init__(self, keys: dict[int, str], table: FeatureTable | None, batcher: _Batcher) -> None:
        self.keys, self.table, self.batcher = keys, table, batcher
        self.found: dict[int, NDArray[np.float32]] = {}
        if table is not None:
            stored = table.get(list(keys.values()))
            self.found = {row: stored[k] for row, k in keys.items() if k in stored}
        # The same source listed twice is read once: by the first row that lists it.
        self.first: dict[str, int] = {}
        for row, k in keys.items():
            if row not in self.found:
                self.first.setdefault(k, row)
        self.todo = set(self.first.values())
        self.num_views: dict[int, int] = {}
        self.fresh: dict[str, NDArray[np.float32]] = {}

    def keep(self, row: int, vectors: NDArray[np.float32], name: str) -> None:
        if not np.isfinite(vectors).all():
            raise DataError(
                f"{name}: its embedding is not finite; the encoder's weights have diverged, "
                "or bfloat16 is too coarse for it"
            )
        if not self.batcher.pooling.keep_views:
            vectors = vectors.mean(0, keepdims=True, dtype=np.float64).astype(np.float32)
        elif len(vectors) < self.num_views[row]:
            vectors = np.repeat(vectors, self.num_views[row], 0)
        self.found[row] = self.fresh[self.keys[row]] = vectors
        if len(self.fresh) >= _ROWS_PER_COMMIT:
            self.commit()

    def commit(self) -> None:
        if self.table is not None and self.fresh:
            self.table.put(self.fresh)
        self.fresh = {}

    def complete(self, faults: dict[int, Fault]) -> None:
        """Give what the first of equal rows got to the others."""
        for row, k in self.keys.items():
            twin = self.first.get(k, row)
            if row not in self.found and twin in self.found:
                self.found[row] = self.found[twin]
            elif row not in self.found and twin in faults:
                faults.setdefault(row, faults[twin])


def as_clip_source(
    data: Source | ClipSource,
    encoder: Encoder,
    clips: ClipPlan | None = None,
    *,
    label: str = "label",
    group: str = "group",
    decoder: Decoder | None = None,
) -> ClipSource:
    """Whatever can be embedded as a ``ClipSource``: files are cut by ``clips``, or as the encoder was trained."""
    if isinstance(data, ManifestClips | ArrayClips | JoinedClips):
        return data
    if isinstance(data, Manifest) or not isinstance(data, ClipSource):
        plan = clips if clips is not None else default_plan(encoder.input_spec)
        return ManifestClips(data, plan, label=label, group=group, decoder=decoder)
    return data


def embed(
    encoder: Encoder,
    data: Source | ClipSource,
    *,
    clips: ClipPlan | None = None,
    layer: str | None = None,
    pooling: PoolingLike = None,
    label: str = "label",
    group: str = "group",
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
        label, group: which columns of a manifest to carry along.
        options: device, workers, batch_size, store, precision, decoder, progress: see ``Compute``.
    Raises: UsageError for an unknown layer, data of a wrong kind, or a pooling that does not fit the map; DataError for
        missing files, no readable source, or an embedding that is not finite.
    """
    (compute,) = sorted_options(options, Compute)
    source = as_clip_source(data, encoder, clips, label=label, group=group, decoder=compute.decoder)
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
                table = stack.enter_context(held.open(key))
            target = stack.enter_context(evaluation_mode(encoder, compute.device))
            batcher = _Batcher(
                encoder,
                layer=stage,
                device=target,
                batch_size=compute.batch_size,
                precision=compute.precision,
                pooling=pooled,
            )
            jobs.append(_Job(dict(keys), table, batcher))
        todo = sorted(set().union(*(job.todo for job in jobs)))
        if todo:
            usual = max(default_workers(job.batcher.device) for job in jobs)
            workers = usual if compute.workers is None else compute.workers
            stack.enter_context(room_for(usual))
            report = stack.enter_context(
                _reporting(compute.progress, len(names), len(names) - len(todo), noun_of(data))
            )
            for row, views in zip(todo, data.read(todo, workers=workers), strict=True):
                if isinstance(views, Fault):
                    faults[row] = views
                else:
                    # The clips of a still image are all equal: one is encoded, its vector stands for each.
                    different = views[:1] if all(torch.equal(views[0], v) for v in views[1:]) else views
                    for job in jobs:
                        job.num_views[row] = len(views)
                        if row in job.todo:
                            for finished, vectors in job.batcher.push(row, different):
                                job.keep(finished, vectors, names[finished])
                report()
            for job in jobs:
                for finished, vectors in job.batcher.flush():
                    job.keep(finished, vectors, names[finished])
                job.commit()
        for job in jobs:
            job.complete(faults)
    in_order = tuple(faults[r] for r in sorted(faults))
    return [_assemble(data, names, keys, job.found, in_order, job.batcher.pooling) for job in jobs]


def _assemble(
    source: ClipSource,
    names: Sequence[str],
    keys: dict[int, str],
    found: dict[int, NDArray[np.float32]],
    faults: tuple[Fault, ...],
    pooling: Pooling,
) -> Embeddings:
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
        sources=np.array([keys[r] for r in rows]),
        paths=tuple(path for path, _ in places),
        spans=tuple(span for _, span in places),
        num_asked=len(names),
        noun=noun_of(source),
        clips=source.digest,
        pooling=pooling.key,
    )


def noun_of(source: ClipSource) -> str:
    """What messages call a source: "video", "image" or "file"; "source" for clips in memory."""
    parts = getattr(source, "parts", [source])
    nouns = {part.manifest.noun for part in parts if isinstance(part, ManifestClips)}
    return nouns.pop() if len(nouns) == 1 else "file" if nouns else "source"


@contextmanager
def _reporting(progress: ProgressLike, total: int, done: int, noun: str) -> Iterator[Callable[[], None]]:
    """A function to call once per source that is finished."""
    if progress is True:
        with Progress("embed", total, unit=plural(noun)) as bar:
            bar.resume_at(done)
            yield lambda: bar.advance()
        return
    count = done

    def tell() -> None:
        nonlocal count
        count += 1
        if callable(progress):
            progress(count, total)

    yield tell


def merge_faults(parts: Iterable[Embeddings]) -> tuple[Fault, ...]:
    """Faults of several embeddings, each once."""
    return tuple(dict.fromkeys(f for part in parts for f in part.faults))
