"""Retrieval: exact nearest neighbours in blocks, and the scores read from them.

Ties are broken by the lower gallery row, so that a result never depends on block sizes, devices or library versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.metrics._arrays import codes_of, labels_of

Similarity: TypeAlias = Literal["cosine", "dot", "euclidean"]

# One block of similarities is at most 256 × 32768 float32 = 32 MB; 32768 was the fastest block of those measured.
_QUERY_ROWS = 256
_GALLERY_ROWS = 32_768
# Rows are first reduced to the maximum of runs of this many columns; only the best runs are searched.
_RUN = 64


class Neighbours(NamedTuple):
    """``indices`` (Q, k) int64 gallery rows, best first, −1 where fewer remain; ``similarities`` (Q, k), −inf there."""

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]


@dataclass(frozen=True)
class RetrievalOutcomes:
    """One pass over a gallery, per query.

    ``hits[k]`` and ``recalls[k]``: (Q,) in [0, 1]; ``average_precision``: (Q,) or ``None`` when not asked for;
    ``num_relevant``: (Q,) gallery rows of the query's label after exclusions; ``num_candidates``: (Q,) rows compared;
    ``neighbours``: the first max(ks) of each query.
    """

    hits: dict[int, NDArray[np.float64]]
    recalls: dict[int, NDArray[np.float64]]
    average_precision: NDArray[np.float64] | None
    num_relevant: NDArray[np.int64]
    num_candidates: NDArray[np.int64]
    neighbours: Neighbours


def _features(values: object, name: str) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if tensor.ndim != 2 or tensor.shape[0] == 0 or tensor.shape[1] == 0:
        raise UsageError(f"{name}: expected features of shape (n, D) with n ≥ 1, got {tuple(tensor.shape)}")
    if tensor.dtype != torch.float64:
        tensor = tensor.to(torch.float32)
    # One pass over a large gallery tells that all is well; only otherwise is every value looked at.
    if not bool(torch.isfinite(torch.linalg.vector_norm(tensor, dim=1)).all()):
        bad = ~torch.isfinite(tensor).all(1)
        if bool(bad.any()):
            first = int(bad.nonzero()[0, 0])
            raise UsageError(f"{name}: {int(bad.sum())} rows are not finite, the first is row {first}")
    return tensor


class _Space:
    """Similarities of prepared queries and gallery rows; higher is nearer. ``apart``: what a pair must not share."""

    def __init__(
        self, queries: object, gallery: object, similarity: Similarity, apart: Mapping[str, tuple[object, object]]
    ) -> None:
        self.queries, self.gallery = _features(queries, "queries"), _features(gallery, "gallery")
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise UsageError(
                f"queries have {self.queries.shape[1]} features, the gallery has {self.gallery.shape[1]}: "
                "both must come from the same encoder"
            )
        dtype = torch.promote_types(self.queries.dtype, self.gallery.dtype)
        self.queries, self.gallery = self.queries.to(dtype), self.gallery.to(self.queries.device, dtype)
        self.offset: Tensor | None = None
        if similarity == "cosine":
            self.queries = torch.nn.functional.normalize(self.queries, dim=1)
            self.gallery = torch.nn.functional.normalize(self.gallery, dim=1)
        elif similarity == "euclidean":
            # −‖q − g‖² + ‖q‖² = 2·q·g − ‖g‖²: the same order per query at the price of one product.
            self.offset = -(self.gallery**2).sum(1)
            self.queries = 2 * self.queries
        elif similarity != "dot":
            raise UsageError(f"similarity: expected 'cosine', 'dot' or 'euclidean', got {similarity!r}")

        self.codes: list[tuple[Tensor, Tensor]] = []
        for name, (of_queries, of_gallery) in apart.items():
            if (of_queries is None) != (of_gallery is None):
                raise UsageError(f"exclusion by {name} needs both query_{name} and gallery_{name}")
            if of_queries is not None:
                self.codes.append(self.same(name, of_queries, of_gallery))

    def same(self, name: str, of_queries: object, of_gallery: object) -> tuple[Tensor, Tensor]:
        """One integer for each value of a pair's ``name``, (Q,) and (G,)."""
        a, b = codes_of(
            labels_of(of_queries, f"query_{name}", length=len(self.queries)),
            labels_of(of_gallery, f"gallery_{name}", length=len(self.gallery)),
        )
        return torch.from_numpy(a).to(self.queries.device), torch.from_numpy(b).to(self.queries.device)

    def block(self, rows: slice, columns: slice) -> Tensor:
        block = self.queries[rows] @ self.gallery[columns].T
        return block if self.offset is None else block + self.offset[columns]

    def excluded(self, rows: slice, columns: slice) -> Tensor | None:
        """Which gallery rows a query must not find: those that share its source or its group."""
        masks = [a[rows, None] == b[None, columns] for a, b in self.codes]
        return torch.stack(masks).any(0) if masks else None


def _slices(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _sorted_by_value_then_index(values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    indices, order = indices.sort(dim=1)
    values = values.gather(1, order)
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices.gather(1, order)[:, :k]


def _top_k(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first, ties to the lower column: values and columns, (Q, min(k, G))."""
    num_rows, num_columns = block.shape
    if num_columns <= 4 * (k + 1):
        values, columns = block.sort(dim=1, descending=True, stable=True)
        return values[:, :k], columns[:, :k]
    num_runs = num_columns // _RUN
    if num_runs > 2 * (k + 1):
        # The k + 1 largest values all lie in the k + 1 runs of largest maximum or in the tail: every run left out has
        # k + 1 runs whose maxima are at least as large. One streaming pass replaces a selection over all columns.
        whole = num_runs * _RUN
        best_runs = block[:, :whole].view(num_rows, num_runs, _RUN).amax(2).topk(k + 1, dim=1, sorted=False).indices
        columns = (best_runs[:, :, None] * _RUN + torch.arange(_RUN, device=block.device)).flatten(1)
        tail = torch.arange(whole, num_columns, device=block.device).expand(num_rows, -1)
        columns = torch.cat([columns, tail], 1)
        values, order = block.gather(1, columns).topk(k + 1, dim=1)
        columns = columns.gather(1, order)
    else:
        values, columns = block.topk(k + 1, dim=1)
    # A tie across the boundary makes the choice arbitrary: those rows are sorted in full.
    tied = (values[:, k - 1] == values[:, k]) & (values[:, k] > -torch.inf)
    values, columns = _sorted_by_value_then_index(values[:, :k], columns[:, :k], k)
    if bool(tied.any()):
        some = tied.nonzero()[:, 0]
        full_values, full_columns = block[some].sort(dim=1, descending=True, stable=True)
        values[some], columns[some] = full_values[:, :k], full_columns[:, :k]
    return values, columns


def _search(space: _Space, k: int) -> Neighbours:
    num_queries, num_gallery = len(space.queries), len(space.gallery)
    if not 1 <= k <= num_gallery:
        raise UsageError(f"k: expected 1 to {num_gallery} (the size of the gallery), got {k}")
    found: list[tuple[Tensor, Tensor]] = []
    for rows in _slices(num_queries, _QUERY_ROWS):
        best: tuple[Tensor, Tensor] | None = None
        for columns in _slices(num_gallery, _GALLERY_ROWS):
            block = space.block(rows, columns)
            mask = space.excluded(rows, columns)
            if mask is not None:
                block.masked_fill_(mask, -torch.inf)
            values, indices = _top_k(block, k)
            indices = indices + columns.start
            if best is not None:
                values, indices = torch.cat([best[0], values], 1), torch.cat([best[1], indices], 1)
                values, indices = _sorted_by_value_then_index(values, indices, k)
            best = values, indices
        assert best is not None
        found.append((best[1].masked_fill(best[0] == -torch.inf, -1), best[0].to(torch.float32)))
    return Neighbours(*(torch.cat(column).cpu().numpy() for column in zip(*found, strict=True)))


def nearest(
    queries: object,
    gallery: object,
    *,
    k: int,
    similarity: Similarity = "cosine",
    query_ids: object | None = None,
    gallery_ids: object | None = None,
    query_groups: object | None = None,
    gallery_groups: object | None = None,
) -> Neighbours:
    """The exact k nearest gallery rows of each query, in blocks of bounded memory.

    Args:
        queries, gallery: (Q, D) and (G, D), float; the gallery is moved to the queries' device.
        similarity: ``cosine``, ``dot``, or ``euclidean`` (negative squared distance plus the query's squared norm).
        query_ids, gallery_ids: rows of the same source are never neighbours.
        query_groups, gallery_groups: nor are rows of the same group (patient, scene).
    Raises: UsageError for wrong shapes, features that are not finite, or k outside 1…G.
    """
    apart = {"ids": (query_ids, gallery_ids), "groups": (query_groups, gallery_groups)}
    return _search(_Space(queries, gallery, similarity, apart), k)


def retrieval_outcomes(
    queries: object,
    gallery: object,
    query_labels: object,
    gallery_labels: object,
    *,
    ks: Sequence[int] = (1, 5, 10, 20, 50),
    average_precision: bool = True,
    similarity: Similarity = "cosine",
    query_ids: object | None = None,
    gallery_ids: object | None = None,
    query_groups: object | None = None,
    gallery_groups: object | None = None,
    found: Neighbours | None = None,
) -> RetrievalOutcomes:
    """Per-query hits, recalls and average precision in one pass.

    A gallery row is relevant when its label is the query's. A query whose label is nowhere in the gallery counts 0 in
    every score: the number of queries never shrinks silently. Default ``ks`` are those of docs/methods/evaluation.md,
    TCGL's retrieval. ``found``: the max(ks) nearest, where they are known. Other arguments and errors as ``nearest``.
    """
    if not ks:
        raise UsageError("ks: name at least one k")
    apart = {"ids": (query_ids, gallery_ids), "groups": (query_groups, gallery_groups)}
    space = _Space(queries, gallery, similarity, apart)
    of_queries, of_gallery = space.same("labels", query_labels, gallery_labels)
    found = _search(space, max(ks)) if found is None else found
    a, b = of_queries.cpu().numpy(), of_gallery.cpu().numpy()
    hits = ((b[found.indices] == a[:, None]) & (found.indices >= 0)).cumsum(1)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    everything = slice(0, len(space.gallery))
    # Each query needs its whole row: as many similarities at once as in a block of the search.
    for rows in _slices(len(space.queries), max(1, _QUERY_ROWS * _GALLERY_ROWS // (2 * len(space.gallery)))):
        same = of_queries[rows, None] == of_gallery[None]
        excluded = space.excluded(rows, everything)
        if excluded is None:
            excluded = torch.zeros_like(same)
        same &= ~excluded
        total, precision = same.sum(1), torch.zeros(len(same), dtype=torch.float64, device=same.device)
        if average_precision:
            block = space.block(rows, everything).masked_fill_(excluded, -torch.inf)
            ranked = same.gather(1, block.argsort(dim=1, descending=True, stable=True))
            ranks = torch.arange(1, ranked.shape[1] + 1, device=block.device, dtype=torch.float64)
            precision = (ranked.cumsum(1) / ranks * ranked).sum(1) / total.clamp(min=1)
        parts.append((total, (~excluded).sum(1), precision))
    relevant, candidates, precisions = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return RetrievalOutcomes(
        {k: (hits[:, k - 1] > 0).astype(np.float64) for k in ks},
        {k: hits[:, k - 1] / np.maximum(relevant, 1) for k in ks},
        precisions if average_precision else None,
        relevant,
        candidates,
        found,
    )


def hit_at_k(
    queries: object, gallery: object, query_labels: object, gallery_labels: object, k: int = 1, **options: Any
) -> float:
    """Share of queries with their label among the k nearest (docs/methods/evaluation.md, TCGL's retrieval: "Recall@k"
    of the video retrieval papers).

    Args:
        queries, gallery: (Q, D), (G, D); query_labels, gallery_labels: (Q,), (G,), any label type.
        options: ``similarity`` (cosine), ``query_ids`` with ``gallery_ids`` and ``query_groups`` with
            ``gallery_groups`` to exclude neighbours of the same source or group, as ``nearest``.
    Returns: in [0, 1]; a query without any relevant gallery row counts 0.
    """
    options |= {"ks": (k,), "average_precision": False}
    return float(retrieval_outcomes(queries, gallery, query_labels, gallery_labels, **options).hits[k].mean())


def recall_at_k(
    queries: object, gallery: object, query_labels: object, gallery_labels: object, k: int = 1, **options: Any
) -> float:
    """Mean share of each query's relevant gallery rows that are among the k nearest (recall of information retrieval).

    Equals ``hit_at_k`` where each query has one relevant row, as between modalities. Arguments as ``hit_at_k``.
    """
    options |= {"ks": (k,), "average_precision": False}
    return float(retrieval_outcomes(queries, gallery, query_labels, gallery_labels, **options).recalls[k].mean())


def mean_average_precision(
    queries: object, gallery: object, query_labels: object, gallery_labels: object, **options: Any
) -> float:
    """Mean over queries of the precision at the rank of each relevant row, over the whole gallery.

    Arguments as ``hit_at_k``.
    """
    found = retrieval_outcomes(queries, gallery, query_labels, gallery_labels, ks=(1,), **options)
    assert found.average_precision is not None
    return float(found.average_precision.mean())


def chance_hit_at_k(num_relevant: NDArray[np.int64], num_candidates: NDArray[np.int64], k: int) -> float:
    """Expected hit@k of a random order: the mean over queries of 1 − C(G − r, k) / C(G, k).

    Args: per query, r relevant rows among G candidates, as ``RetrievalOutcomes`` counts them.
    """
    r = np.asarray(num_relevant, dtype=np.float64)[:, None]
    g = np.asarray(num_candidates, dtype=np.float64)[:, None]
    draws = np.arange(k)[None]
    # Of the i-th draw: probability that it misses, given that all before it missed.
    misses = np.clip(g - r - draws, 0, None) / np.maximum(g - draws, 1)
    hit = np.where(r[:, 0] > 0, 1 - misses.prod(1), 0.0)
    return float(hit.mean())


def chance_average_precision(num_relevant: NDArray[np.int64], num_candidates: NDArray[np.int64]) -> float:
    """Expected average precision of a random order, mean over queries.

    With r relevant of G: (1/G) · Σ_i [1/i + (r − 1)/(G − 1) · (i − 1)/i], by the hypergeometric expectation.
    """
    r = np.asarray(num_relevant, dtype=np.float64)
    g = np.asarray(num_candidates, dtype=np.int64)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, g.max() + 1))])[g]
    others = (r - 1) / np.maximum(g - 1, 1)
    expected = (harmonic + others * (g - harmonic)) / np.maximum(g, 1)
    return float(np.where(r > 0, expected, 0.0).mean())
