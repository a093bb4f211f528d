"""Retrieval: does the nearest training video show the same thing?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray

from unreel.core.checks import Count, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.text import shown
from unreel.data.manifest import Manifest, Source
from unreel.data.windows import Span, apart
from unreel.metrics.retrieval import Similarity, nearest
from unreel.nn.encoder import Encoder
from unreel.protocols.features import Embeddings, embed
from unreel.protocols.head import HEADS, GalleryOrder, HeadCard, Predictions
from unreel.protocols.protocol import class_card
from unreel.protocols.samples import FeatureSet, Inputs, as_features, check_width


@HEADS.register("retrieval")
@dataclass(frozen=True)
class FittedRetrieval:
    """A gallery (G, D) of labelled samples, in which others are looked up; ``named`` where its ids are names."""

    card: HeadCard
    vectors: NDArray[Any]
    labels: NDArray[Any]
    ids: NDArray[Any]
    groups: NDArray[Any] | None
    ks: tuple[int, ...]
    similarity: Similarity
    exclude: str
    named: bool
    form: ClassVar[str] = "retrieval"

    def predict(self, inputs: Inputs) -> Predictions:
        """The nearest of the gallery, as many as the largest k; ids and groups of the inputs keep them from finding
        themselves. Errors as ``Head.predict``."""
        features = as_features(inputs, self.vectors.shape[1])
        by_group = self.exclude == "group" and features.groups is not None and self.groups is not None
        order = GalleryOrder(
            features.mean_over_views().vectors,
            self.vectors,
            self.labels,
            self.ids,
            self.similarity,
            tuple(self.ks),
            query_ids=features.ids.astype(str) if self.named and features.ids is not None else None,
            query_groups=features.groups if by_group else None,
            groups=self.groups,
        )
        found = nearest(order.queries, order.vectors, k=max(self.ks), similarity=self.similarity, **order.exclusions)
        return Predictions("neighbours", self.card, neighbours=found, gallery=order)


@checked
@dataclass(frozen=True)
class Retrieval:
    """Test samples as queries, training (and validation) samples as gallery, no training.

    Source: docs/methods/evaluation.md, TCGL's retrieval.

    Views of a sample are averaged before the cosine, as there. hit@k is 1 where any of the k nearest has the query's
    label; k above the size of the gallery is left out, with a note.

    Args:
        ks: which hits to report; the first is the primary score.
        similarity: ``cosine``, ``dot`` or ``euclidean``.
        exclude: ``source`` never finds the query itself (equal id); ``group`` nor its patient or scene.
    """

    ks: Annotated[tuple[Count, ...], MinLen(1)] = (1, 5, 10, 20, 50)
    similarity: Similarity = "cosine"
    exclude: Literal["source", "group"] = "group"
    name: str = "retrieval"

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedRetrieval:
        """Keep the gallery; ``seed`` plays no part. Raises UsageError when the two parts differ in width."""
        gallery = train.mean_over_views()
        if validation is not None:
            check_width(validation, train.num_features)
            gallery = gallery.joined(validation.mean_over_views())
        gallery = gallery.canonical()
        possible = tuple(k for k in self.ks if k <= len(gallery))
        if not possible:
            raise UsageError(f"ks: all of {self.ks} exceed the gallery's {len(gallery)} samples")
        left_out = ", ".join(f"hit@{k}" for k in self.ks if k > len(gallery))
        notes = (f"{left_out} left out: the gallery has {len(gallery)} samples",) if left_out else ()
        settings = {"similarity": self.similarity, "exclude": self.exclude, "n_gallery": len(gallery)}
        return FittedRetrieval(
            class_card(self.name, np.unique(gallery.labels), gallery.labels, settings, notes),
            gallery.vectors,
            gallery.labels,
            gallery.names(),
            gallery.groups,
            possible,
            self.similarity,
            self.exclude,
            gallery.ids is not None,
        )


# Rocchio's weights for wanted and unwanted examples, 0.75 and 0.15 (Manning, Raghavan and Schütze 2008, §9.1.1).
_UNWANTED = 0.2
_WINDOW = re.compile(r"(.+)#(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)?")
# Options of ``embed`` that say how the data are read, and nothing of a single file.
_OF_THE_DATA = ("window", "every", "path", "label", "group", "split", "start", "end", "columns")


class Hit(NamedTuple):
    """One search result: where it is and how alike (cosine, higher is nearer)."""

    path: str
    span: tuple[float, float | None] | None
    similarity: float


class Example(NamedTuple):
    """What to search with: a file, or ``span`` seconds of it."""

    path: Path
    span: tuple[float, float | None] | None = None

    @classmethod
    def of(cls, text: str | PathLike[str], data: object = None) -> Example:
        """An example as people write it: ``dogs/a.mp4``, or ``dogs/a.mp4#12-16`` for seconds 12 to 16.

        A path that is not there is looked for in ``data``, where that is a folder, a table or a manifest.
        Raises: DataError for a file that is nowhere; UsageError for seconds that end before they start.
        """
        root = data.root if isinstance(data, Manifest) else data if isinstance(data, str | PathLike) else None
        folders = [Path()] if root is None else [Path(), Path(root) if Path(root).is_dir() else Path(root).parent]
        name, span = fspath(text), None
        window = _WINDOW.fullmatch(name)
        for folder in folders:
            if (folder / name).exists():
                return cls(folder / name)
        if window is not None:
            span = (float(window[2]), float(window[3]) if window[3] else None)
            if span[1] is not None and span[1] <= span[0]:
                raise UsageError(f"{shown(name)}: the seconds end before they start; give START-END: a.mp4#12-16")
            for folder in folders:
                if (folder / window[1]).exists():
                    return cls(folder / window[1], span)
        raise DataError(f"{shown(name)}: there is no such file")


def as_rows(examples: Sequence[Example]) -> Manifest:
    """Examples as data, one row each."""
    files = Manifest.from_paths([e.path for e in examples])
    spans = [(None, None) if e.span is None else e.span for e in examples]
    rows = (replace(row, start_s=a, end_s=b) for row, (a, b) in zip(files, spans, strict=True))
    return replace(files, rows=tuple(rows))


def most_like(
    vectors: NDArray[Any],
    wanted: NDArray[Any],
    unwanted: NDArray[Any] | None = None,
    *,
    k: int,
    never: NDArray[np.bool_] | None = None,
) -> list[tuple[int, float]]:
    """Rows of ``vectors`` most like the wanted ones and least like the unwanted ones, best first, with their cosine.

    The query is Rocchio's: the mean of the wanted, less a fifth of the mean of the unwanted (Manning, Raghavan and
    Schütze 2008, §9.1.1); of one wanted alone, itself.

    Args:
        vectors: (N, D). wanted: (P, D), P ≥ 1. unwanted: (Q, D). k: at most this many.
        never: (N,) rows that are not to be found.
    """
    query = wanted
    if len(wanted) > 1 or (unwanted is not None and len(unwanted)):
        query = _unit(wanted).mean(0, keepdims=True)
        if unwanted is not None and len(unwanted):
            query = query - _UNWANTED * _unit(unwanted).mean(0, keepdims=True)
    ids = None if never is None else [True]
    found = nearest(query, vectors, k=min(k, len(vectors)), query_ids=ids, gallery_ids=never)
    pairs = zip(found.indices[0].tolist(), found.similarities[0].tolist(), strict=True)
    return [(i, similarity) for i, similarity in pairs if i >= 0]


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    unit: NDArray[Any] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    return unit


def search(
    encoder: Encoder,
    query_paths: Sequence[str | PathLike[str]],
    gallery: Source | Embeddings,
    k: int = 5,
    *,
    include_same: bool = False,
    **options: Any,
) -> list[list[Hit]]:
    """The k gallery videos most like each query video: one list per query, best first.

    Args:
        encoder: embeds the queries, and the gallery where it is not embedded yet.
        query_paths: video files, or seconds of them (``Example.of``).
        gallery: a folder, a manifest, a list of paths, or ``Embeddings`` made by the same encoder and clip plan.
        k: at most this many per query.
        include_same: also find the query itself where the gallery holds it: the same file, by whatever path or link,
            and the same span. A copy of it is always found.
        options: clips, pooling, store, window, device and others, as ``embed``; windows are of the gallery.
    Raises: DataError for a query that cannot be read or a gallery with nothing else; UsageError for k < 1 or a gallery
        cut by another clip plan or pooled otherwise.
    """
    queries, table = _embedded(encoder, query_paths, gallery, k, options)
    found = nearest(
        queries.vectors,
        table.vectors,
        k=min(k, len(table)),
        query_ids=None if include_same else queries.sources,
        gallery_ids=None if include_same else table.sources,
    )
    if (found.indices < 0).all():
        raise DataError("there is no other video to search in")
    return [
        [
            Hit(table.paths[i], table.spans[i], float(similarity))
            for i, similarity in zip(row, values, strict=True)
            if i >= 0
        ]
        for row, values in zip(found.indices, found.similarities, strict=True)
    ]


def search_like(
    encoder: Encoder,
    wanted: Sequence[str | PathLike[str]],
    unwanted: Sequence[str | PathLike[str]],
    gallery: Source | Embeddings,
    k: int = 5,
    *,
    include_same: bool = False,
    **options: Any,
) -> list[Hit]:
    """The k gallery videos most like all wanted examples and least like the unwanted ones (``most_like``).

    Arguments and errors as ``search``. No example is found. Of windows that share time, with each other or with a
    stretch that is an example, the best one is.
    """
    if not wanted:
        raise UsageError("give at least one example to search for")
    queries, table = _embedded(encoder, [*wanted, *unwanted], gallery, k, options)
    given = np.zeros(len(table), bool) if include_same else np.isin(table.sources, queries.sources)
    vectors, many = queries.vectors, len(wanted)
    cut = any(table.spans)
    found = most_like(table.vectors, vectors[:many], vectors[many:], k=len(table) if cut else k, never=given)
    if cut:
        # A file that is named as a whole is another source than a stretch of it: only stretches take their time.
        stretches = [i for i, span in enumerate(queries.spans) if span is not None]
        taken = [] if include_same else _places(queries, stretches)
        found = [found[i] for i in apart(_places(table, (i for i, _ in found)), k, taken=taken)]
    if not found:
        raise DataError("there is no other video to search in")
    return [Hit(table.paths[i], table.spans[i], similarity) for i, similarity in found]


def _places(table: Embeddings, rows: Iterable[int]) -> list[tuple[str, Span]]:
    """The files of rows, by whatever path, and their seconds."""
    real = {path: os.path.realpath(path) for path in dict.fromkeys(table.paths)}
    return [(real[table.paths[i]], table.spans[i]) for i in rows]


def _embedded(
    encoder: Encoder,
    examples: Sequence[str | PathLike[str]],
    gallery: Source | Embeddings,
    k: int,
    options: dict[str, Any],
) -> tuple[Embeddings, Embeddings]:
    """Examples and gallery, made alike."""
    if k < 1:
        raise UsageError(f"the number of videos to find must be ≥ 1, got {k}")
    rows = as_rows([Example.of(text, gallery) for text in examples])
    own = {name: value for name, value in options.items() if name not in _OF_THE_DATA}
    queries = embed(encoder, rows, **own)
    if queries.faults:
        raise DataError("a query cannot be read: " + "; ".join(f.message for f in queries.faults))
    table = gallery if isinstance(gallery, Embeddings) else embed(encoder, gallery, **options)
    for what in ("clips", "pooling"):
        if getattr(table, what) != getattr(queries, what):
            name = "clip plan" if what == "clips" else what
            raise UsageError(f"the gallery was embedded with another {name} than the queries; give the same `{what}`")
    return queries, table
