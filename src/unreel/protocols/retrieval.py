"""Retrieval: does the nearest training video show the same thing?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray

from unreel.core.checks import Count, checked
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Source
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


class Hit(NamedTuple):
    """One search result: where it is and how alike (cosine, higher is nearer)."""

    path: str
    span: tuple[float, float | None] | None
    similarity: float


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
        query_paths: video files.
        gallery: a folder, a manifest, a list of paths, or ``Embeddings`` made by the same encoder and clip plan.
        k: at most this many per query.
        include_same: also find the query itself where the gallery holds it: the same file, by whatever path or link,
            and the same span. A copy of it is always found.
        options: clips, pooling, store, device and others, as ``embed``.
    Raises: DataError for a query that cannot be read or a gallery with nothing else; UsageError for k < 1 or a gallery
        cut by another clip plan or pooled otherwise.
    """
    if k < 1:
        raise UsageError(f"the number of videos to find must be ≥ 1, got {k}")
    for path in query_paths:
        if not Path(path).exists():
            raise DataError(f"{fspath(path)}: there is no such file")
    queries = embed(encoder, list(query_paths), **options)
    if queries.faults:
        raise DataError("a query cannot be read: " + "; ".join(f.message for f in queries.faults))
    table = gallery if isinstance(gallery, Embeddings) else embed(encoder, gallery, **options)
    if table.clips != queries.clips:
        raise UsageError("the gallery was embedded with another clip plan than the queries; give the same `clips`")
    if table.pooling != queries.pooling:
        raise UsageError("the gallery was embedded with another pooling than the queries; give the same `pooling`")
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
