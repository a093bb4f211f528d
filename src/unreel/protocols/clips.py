"""What can be embedded: test clips of sources, cut alike, from files, from memory, or of several sets together."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.digests import mapping_digest
from unreel.core.errors import UsageError
from unreel.core.text import shown
from unreel.data.batch import Fault
from unreel.data.columns import Columns
from unreel.data.dataset import EvaluationDataset
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.nn.encoder import Encoder, InputSpec


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
        label, group: which columns; ``None``: those that the manifest means, if it has them.
        decoder: reads every row; ``None`` chooses by the kind of file.
    Raises: DataError for missing files, before anything is read.
    """

    def __init__(
        self,
        data: Source,
        plan: ClipPlan,
        *,
        label: str | None = None,
        group: str | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.manifest = Manifest.open(data, columns=Columns(label=label, group=group))
        self.manifest.check_files()
        self.plan = plan
        self.dataset = EvaluationDataset(self.manifest, plan, decoder)
        known = self.manifest
        self.labels = known.labels() if known.label in known.label_names else None
        self.groups = known.groups() if known.group in known.group_names else None

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
        return "array"

    def source(self, row: int) -> str:
        pixels = self.clips[row].contiguous()
        digest = hashlib.blake2b(str(tuple(pixels.shape)).encode(), digest_size=16)
        digest.update(pixels.numpy().tobytes())
        return digest.hexdigest()

    def location(self, row: int) -> tuple[str, tuple[float, float | None] | None]:
        return "", None

    def read(self, rows: Sequence[int], *, workers: int = 0) -> Iterator[Tensor | Fault]:
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
        return self.parts[0].digest

    def source(self, row: int) -> str:
        part, own = self._places[row]
        return part.source(own)

    def location(self, row: int) -> tuple[str, tuple[float, float | None] | None]:
        part, own = self._places[row]
        return part.location(own)

    def read(self, rows: Sequence[int], *, workers: int = 0) -> Iterator[Tensor | Fault]:
        """Each run of rows of one part is read by that part."""
        for part, run in itertools.groupby((self._places[row] for row in rows), key=lambda place: place[0]):
            yield from part.read([own for _, own in run], workers=workers)


def as_clip_source(
    data: Source | ClipSource,
    encoder: Encoder,
    clips: ClipPlan | None = None,
    *,
    label: str | None = None,
    group: str | None = None,
    decoder: Decoder | None = None,
) -> ClipSource:
    """Whatever can be embedded as a ``ClipSource``: files are cut by ``clips``, or as the encoder was trained."""
    if isinstance(data, ManifestClips | ArrayClips | JoinedClips):
        return data
    if isinstance(data, Manifest) or not isinstance(data, ClipSource):
        plan = clips if clips is not None else default_plan(encoder.input_spec)
        return ManifestClips(data, plan, label=label, group=group, decoder=decoder)
    return data


def noun_of(source: ClipSource) -> str:
    """What messages call a source: "video", "image" or "file"; "source" for clips in memory."""
    parts = getattr(source, "parts", [source])
    nouns = {part.manifest.noun for part in parts if isinstance(part, ManifestClips)}
    return nouns.pop() if len(nouns) == 1 else "file" if nouns else "source"
