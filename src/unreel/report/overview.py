"""What an encoder makes of videos or images without labels: a map, clusters, neighbours, near-duplicates."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import from_plain
from unreel.core.errors import DataError
from unreel.core.files import write_whole
from unreel.core.keys import Key
from unreel.core.text import shown
from unreel.data.manifest import Manifest
from unreel.metrics.retrieval import nearest
from unreel.nn.encoder import Encoder
from unreel.protocols.compute import Compute
from unreel.protocols.features import embed
from unreel.report.pages import Clip, clip_of
from unreel.tasks.explore import cluster, duplicates

OVERVIEW_FILE = "overview.json"
LEAST = 12
"""Fewer files make no map."""
_SIDE_PX, _QUALITY = 64, 50  # some 5 kB a file
_FROM_TSNE = 50  # files; with fewer, two principal components
_QUERIES, _NEIGHBOURS, _OF_A_CLUSTER, _MOST_GROUPS = 6, 5, 6, 8


@dataclass(frozen=True)
class Overview:
    """What a page shows of files without labels; positions count ``clips``.

    Attributes:
        source: where the files are from. num_asked: how many there are; of them ``clips`` were looked at.
        made: when. map: how the map was made. noun: what one of the files is called.
        places: left and top on the map, each in [0, 1]. clusters: each file's cluster, from 1.
        typical: of the largest clusters, the files nearest to their means.
        neighbours: a file, and those nearest to it, each with its cosine.
        copies: groups of near-duplicates. said: sentences on clusters and near-duplicates. notes: what to know.
    """

    source: str
    num_asked: int
    made: str
    map: str
    noun: str
    clips: tuple[Clip, ...]
    places: tuple[tuple[float, float], ...]
    clusters: tuple[int, ...]
    typical: tuple[tuple[int, ...], ...]
    neighbours: tuple[tuple[tuple[int, float], ...], ...]
    copies: tuple[tuple[int, ...], ...]
    said: tuple[str, str]
    notes: tuple[str, ...]

    def keep(self, run: str | os.PathLike[str]) -> Path:
        """Write it into a run's folder, whole or not at all."""
        return write_whole(Path(run) / OVERVIEW_FILE, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, run: str | os.PathLike[str]) -> Overview | None:
        """What a run's folder keeps; None where there is none, or another version wrote it."""
        try:
            return from_plain(cls, json.loads((Path(run) / OVERVIEW_FILE).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None

    def rows(self, kind: str) -> list[list[Clip]]:
        """Clips of "typical", "copies" or "neighbours", a list for each group, with what stands below them."""
        if kind != "neighbours":
            return [[self.clips[i] for i in group] for group in getattr(self, kind)]
        return [
            [replace(self.clips[i], value="query" if n == 0 else f"{value:.3f}") for n, (i, value) in enumerate(row)]
            for row in self.neighbours
        ]


def overview(encoder: Encoder, data: Manifest, *, source: str, most: int, compute: Compute, seed: int = 0) -> Overview:
    """Embed files, and say what is alike among them.

    Args:
        encoder, compute: as ``embed``. data: the files. source: where they are from, for people.
        most: at most so many files, chosen by a key. seed: for the choice, the map and the clusters.
    Raises: DataError for fewer than ``LEAST`` files that can be read.
    """
    key = Key(seed, "overview")
    order = sorted(range(len(data)), key=lambda i: key.child(data.sample_id(i)).uniform())
    found = embed(encoder, data.subset(sorted(order[:most])), **vars(compute))
    if len(found) < LEAST:
        raise DataError(f"a map needs at least {LEAST} files, and {len(found)} could be read")
    files = list(zip(found.paths, found.spans, strict=True))
    where = {file: i for i, file in enumerate(files)}
    grouped, copied = cluster(found, seed=seed), duplicates(found, compute=compute)
    groups = [[where[row.path, row.span] for row in rows] for rows in grouped.groups]
    number = {i: n for n, group in enumerate(groups, 1) for i in group}
    copies = [[where[row.path, row.span] for row in rows] for rows in copied.groups]
    own = np.arange(len(found))
    near = nearest(found.vectors, found.vectors, k=_NEIGHBOURS, query_ids=own, gallery_ids=own)
    queries = [group[n] for n in range(_QUERIES) for group in groups if n < len(group)][:_QUERIES]
    places, how = _map(found.vectors, key)
    return Overview(
        source=source,
        num_asked=len(data),
        made=time.strftime("%Y-%m-%d %H:%M:%S"),
        map=how,
        noun=found.noun,
        clips=tuple(
            clip_of(*file, name=shown(os.path.basename(str(name))), side_px=_SIDE_PX, quality=_QUALITY)
            for file, name in zip(files, found.ids, strict=True)
        ),
        places=places,
        clusters=tuple(number[where[file]] for file in files),
        typical=tuple(tuple(group[:_OF_A_CLUSTER]) for group in groups[:_MOST_GROUPS]),
        neighbours=tuple(
            (
                (i, 1.0),
                *((int(j), float(v)) for j, v in zip(near.indices[i], near.similarities[i], strict=True) if j >= 0),
            )
            for i in queries
        ),
        copies=tuple(tuple(group[:_OF_A_CLUSTER]) for group in copies[:_MOST_GROUPS]),
        said=(grouped.summary, copied.summary),
        notes=tuple(dict.fromkeys((*grouped.notes, *copied.notes))),
    )


def _map(vectors: NDArray[np.float32], key: Key) -> tuple[tuple[tuple[float, float], ...], str]:
    """Left and top of each vector in [0, 1], near where vectors are alike; and how they were found."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    draw = key.child("map").bits() % 2**32
    if len(vectors) < _FROM_TSNE or np.ptp(unit, axis=0).max() < 1e-6:  # of equal vectors t-SNE makes noise
        flat, how = PCA(2, random_state=draw).fit_transform(unit), "the two principal components of the embeddings"
    else:
        perplexity = min(30.0, (len(vectors) - 1) / 4)
        made = TSNE(2, perplexity=perplexity, init="pca", random_state=draw)
        flat, how = made.fit_transform(unit), "t-SNE, which keeps neighbours together and not distances"
    low, high = flat.min(0), flat.max(0)
    scaled = (flat - low) / np.where(high > low, high - low, 1.0)
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in scaled), how
