"""What a folder holds, seen through an encoder: groups of alike files, near-duplicates, and odd ones out."""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from unreel.core.checks import Count, Range, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.core.text import first_few, shown
from unreel.core.words import counted, plural
from unreel.metrics.retrieval import nearest
from unreel.protocols.compute import Compute
from unreel.protocols.copies import same_pictures
from unreel.protocols.features import Embeddings
from unreel.protocols.retrieval import Hit
from unreel.tasks.task import Parts
from unreel.train.health import collapsed

Span: TypeAlias = tuple[float, float | None] | None

# Numbers of clusters that are tried, and how many files judge them.
_CLUSTERS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30)
_JUDGES = 2000
_STARTS = 4
# Of 108 planted copies (re-encoded, resized, cropped by a tenth, trimmed) of real videos and photographs, 105 are more
# alike than this. Of their 354 originals no two different ones are, and all six are that came in two file formats.
ABOVE = 0.85
# Neighbours among which copies are looked for; even a net with random weights had all copies among so many.
_PROPOSED = 10
# Training files that each test file is compared with, and pairs in all: what an evaluation can pay for.
_LEAKS_EACH = 3
_LEAKS = 300
# The neighbour whose distance says how lonely a file is: that many odd files alike do not hide one another.
_COMPANY = 5


class Clustered(NamedTuple):
    """A file and its cluster, from 1 by size; ``similarity``: its cosine with the cluster's mean, the medoid first."""

    path: str
    span: Span
    cluster: int
    similarity: float


class Copy(NamedTuple):
    """A file, and its group of near-duplicates, from 1; ``similarity``: of its pictures to the most alike in it."""

    path: str
    span: Span
    group: int
    similarity: float


class Outlier(NamedTuple):
    """A file; ``distance``: to its fifth neighbour, in times of what is usual; ``nearest``: the most like it."""

    path: str
    span: Span
    distance: float
    nearest: str


Row: TypeAlias = Hit | Clustered | Copy | Outlier


@dataclass(frozen=True)
class Found:
    """What was found, as a table: a row for each file. A sequence.

    ``kind``: "clusters", "duplicates" or "outliers"; ``summary``: one sentence; ``notes``: what to know of it.
    """

    kind: Literal["clusters", "duplicates", "outliers"]
    rows: tuple[Any, ...]
    summary: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.rows[i]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    @property
    def groups(self) -> list[list[Any]]:
        """Rows of one cluster, or of one group of duplicates, together; outliers are one list."""
        numbers = [getattr(row, "cluster", getattr(row, "group", 0)) for row in self.rows]
        return [[r for r, n in zip(self.rows, numbers, strict=True) if n == k] for k in sorted({*numbers})]

    def to_plain(self) -> dict[str, object]:
        return {"summary": self.summary, "notes": list(self.notes), "rows": plain_rows(self.rows)}


def plain_rows(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Rows for JSON and tables: seconds as start_s and end_s, where a row has any."""
    spans = any(row.span for row in rows)
    found = []
    for row in rows:
        values: dict[str, object] = dict(row._asdict())
        named: dict[str, object] = {"path": shown(row.path)}
        del values["path"], values["span"]
        if spans:
            named["start_s"], named["end_s"] = row.span or ("", "")
        found.append({**named, **{k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}})
    return found


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as a table with a header."""
    plain, text = plain_rows(rows), io.StringIO()
    writer = csv.DictWriter(text, plain[0] if plain else ["path"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def _enough(embeddings: Embeddings, least: int, what: str) -> list[str]:
    """Notes on embeddings that can be looked at; raises DataError for too few."""
    if len(embeddings) < least:
        raise DataError(f"{what} need at least {least} files, and {len(embeddings)} could be read")
    notes = [f"left out: {fault.message}" for fault in embeddings.faults]
    if collapsed(embeddings.vectors):
        notes.append("all embeddings are equal, or nearly so: the encoder has collapsed, and tells nothing apart")
    return notes


@checked
def cluster(embeddings: Embeddings, clusters: Count | Literal["auto"] = "auto", *, seed: int = 0) -> Found:
    """Groups of alike files: k-means on directions from the mean; the most typical file of each (medoid) comes first.

    Args:
        embeddings: what to group. clusters: how many; "auto" takes the number with the best silhouette.
        seed: for the first centres.
    Raises: DataError for fewer than three files; UsageError for more clusters than files.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score

    notes = _enough(embeddings, 3, "clusters")
    n = len(embeddings)
    if clusters != "auto" and clusters > n:
        raise UsageError(f"clusters: there are {n} files, fewer than {clusters}")
    centred = embeddings.vectors - embeddings.vectors.mean(0, dtype=np.float64)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)
    draw = Key(seed, "clusters").bits() % 2**32

    def divided(k: int) -> NDArray[np.int64]:
        with warnings.catch_warnings():  # files that are all alike make fewer clusters
            warnings.simplefilter("ignore", ConvergenceWarning)
            found: NDArray[np.int64] = KMeans(k, n_init=_STARTS, random_state=draw).fit_predict(unit)
        return found

    if clusters == "auto":
        judges = min(n, _JUDGES)
        best, labels = -2.0, np.zeros(n, np.int64)
        for k in (k for k in _CLUSTERS if k < n):
            tried = divided(k)
            if len({*tried.tolist()}) < 2:
                continue
            score = float(silhouette_score(unit, tried, sample_size=None if judges == n else judges, random_state=draw))
            if score > best:
                best, labels = score, tried
        how = f"the silhouette is best for that number: {best:.2f}, of at most 1" if best > -2 else "no two are apart"
    else:
        labels, how = divided(clusters), "as asked for"
    rows: list[Clustered] = []
    sizes = Counter(labels.tolist())
    for number, label in enumerate(sorted(sizes, key=lambda k: (-sizes[k], int(np.argmax(labels == k)))), 1):
        members = np.flatnonzero(labels == label)
        mean = unit[members].mean(0)
        likeness = unit[members] @ (mean / max(float(np.linalg.norm(mean)), 1e-12))
        for at in np.argsort(-likeness, kind="stable"):
            i = members[at]
            rows.append(Clustered(embeddings.paths[i], embeddings.spans[i], number, float(likeness[at])))
    summary = f"{counted(len(sizes), 'cluster')} of {counted(n, embeddings.noun)}: {how}"
    return Found("clusters", tuple(rows), summary, tuple(notes))


@checked
def duplicates(
    embeddings: Embeddings, above: Annotated[float, Range(gt=0, le=1)] = ABOVE, *, compute: Compute
) -> Found:
    """Near-duplicates, in groups: files that show the same pictures, if re-encoded, cropped a little, or trimmed.

    The encoder proposes pairs, each file's ten nearest; small pictures decide (``protocols.copies.same_pictures``).

    Args:
        embeddings: of the files. above: how alike pictures must be, in (0, 1]. compute: reads the pictures.
    """
    notes = _enough(embeddings, 2, "duplicates")
    n = len(embeddings)
    own = np.arange(n)
    near = nearest(embeddings.vectors, embeddings.vectors, k=min(_PROPOSED, n - 1), query_ids=own, gallery_ids=own)
    pairs = np.unique(np.sort(_pairs(own, near.indices), axis=1), axis=0)
    pairs = pairs[[not _overlap(embeddings, i, j) for i, j in pairs.tolist()]]
    likeness = same_pictures(embeddings, pairs, compute)
    pairs, likeness = pairs[likeness >= above], likeness[likeness >= above]
    best = np.zeros(n)
    for at in (0, 1):
        np.maximum.at(best, pairs[:, at], likeness)
    graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), (n, n))
    of = connected_components(graph, directed=False)[1]
    sizes = Counter(of.tolist())
    groups = [np.flatnonzero(of == k) for k in sorted(sizes, key=lambda k: int(np.argmax(of == k))) if sizes[k] > 1]
    groups.sort(key=lambda members: -float(best[members].max()))
    rows = [
        Copy(embeddings.paths[i], embeddings.spans[i], number, min(1.0, float(best[i])))
        for number, members in enumerate(groups, 1)
        for i in members
    ]
    spare = len(rows) - len(groups)
    noun = embeddings.noun
    summary = (
        f"{counted(len(groups), 'group')} of near-duplicates among {counted(n, noun)}: {spare} could go. Files of a "
        f"group have pictures that agree by {above:g} or more"
        if groups
        else f"no near-duplicates among {counted(n, noun)}: no two have pictures that agree by {above:g} or more"
    )
    return Found("duplicates", tuple(rows), summary, tuple(notes))


@checked
def outliers(embeddings: Embeddings, top: Count = 20) -> Found:
    """The files that are furthest from all others, the oddest first: by the distance to their fifth neighbour.

    All features count alike: each is divided by its standard deviation.
    """
    notes = _enough(embeddings, 3, "outliers")
    n, vectors = len(embeddings), embeddings.vectors.astype(np.float64)
    vectors = (vectors - vectors.mean(0)) / np.where(vectors.std(0) > 0, vectors.std(0), 1)
    own = np.arange(n)
    k = min(_COMPANY, n - 1)
    near = nearest(vectors, vectors, k=k, similarity="euclidean", query_ids=own, gallery_ids=own).indices
    far = np.linalg.norm(vectors - vectors[near[:, -1]], axis=1)
    far = far / max(float(np.median(far)), 1e-12)
    rows = [
        Outlier(embeddings.paths[i], embeddings.spans[i], float(far[i]), embeddings.paths[near[i, 0]])
        for i in np.argsort(-far, kind="stable")[:top]
    ]
    summary = f"{len(rows)} of {counted(n, embeddings.noun)}: those that are furthest from all others"
    return Found("outliers", tuple(rows), summary, tuple(notes))


def leaks(embeddings: Embeddings, splits: Sequence[Parts], compute: Compute) -> list[str]:
    """A note that names test files which are near-duplicates of training files, or none.

    Each test file is compared by its pictures with the training files nearest to it, three hundred pairs at most, the
    likeliest first. Clips in memory are not looked at. ``splits``: the parts, of each fold where there are several.
    """
    ids = {str(name): i for i, name in enumerate(embeddings.ids) if embeddings.paths[i]}
    likely: dict[tuple[int, int], float] = {}
    for parts in splits:
        if parts.train.ids is None or parts.test.ids is None:
            continue
        train, test = (
            np.array([ids[name] for name in names.astype(str).tolist() if name in ids], np.int64)
            for names in (parts.train.ids, parts.test.ids)
        )
        if len(train) and len(test):
            near = nearest(embeddings.vectors[test], embeddings.vectors[train], k=min(_LEAKS_EACH, len(train)))
            many = np.repeat(test, near.indices.shape[1]).tolist()
            asked = zip(many, train[near.indices.ravel()].tolist(), strict=True)
            likely |= zip(asked, near.similarities.ravel().tolist(), strict=True)
    if not likely:
        return []
    pairs = np.array(sorted(likely, key=lambda pair: -likely[pair])[:_LEAKS], np.int64)
    likeness = same_pictures(embeddings, pairs, replace(compute, progress=False))
    order = np.argsort(-likeness, kind="stable")
    found = {int(i): int(j) for i, j in pairs[order[likeness[order] >= ABOVE]][::-1]}  # the most alike is said last
    if not found:
        return []
    named = [f"{embeddings.ids[i]} ~ {embeddings.ids[j]}" for i, j in sorted(found.items())]
    count, noun = len(found), plural(embeddings.noun)
    what = "is a near-duplicate" if count == 1 else "are near-duplicates"
    return [
        f"{counted(count, f'test {embeddings.noun}')} {what} of training {noun}, so the scores are too good: "
        f"{first_few(named)}. Find them all with unreel duplicates"
    ]


def _pairs(queries: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.int64]:
    pairs = np.stack([np.repeat(queries, found.shape[1]), found.ravel()], 1)
    return pairs[pairs[:, 1] >= 0]


def _overlap(embeddings: Embeddings, i: int, j: int) -> bool:
    """Whether two rows share seconds of one file: no copies, but the same."""
    if embeddings.paths[i] != embeddings.paths[j]:
        return False
    (a, b), (c, d) = (span or (0.0, None) for span in (embeddings.spans[i], embeddings.spans[j]))
    return (d is None or a < d) and (b is None or c < b)
