"""Classification metrics: pure functions on predictions and labels (arrays, tensors or lists; any label type).

Each score that is a mean over samples has a per-sample form, which intervals and paired comparisons read.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.metrics._arrays import codes_of, labels_of, to_numpy


class ConfusionMatrix(NamedTuple):
    """``counts[i, j]``: samples of class ``classes[i]`` predicted as ``classes[j]``; (C, C) int64."""

    counts: NDArray[np.int64]
    classes: NDArray[Any]

    @property
    def recalls(self) -> NDArray[np.float64]:
        """Share of each class that was found, (C,); NaN for a class without samples."""
        with np.errstate(invalid="ignore"):
            shares: NDArray[np.float64] = np.diag(self.counts) / self.counts.sum(1)
        return shares


def _pair(predictions: object, labels: object) -> tuple[NDArray[Any], NDArray[Any]]:
    truth = labels_of(labels, "labels")
    return labels_of(predictions, "predictions", length=len(truth)), truth


def correct(predictions: object, labels: object) -> NDArray[np.float64]:
    """1.0 where the prediction is the label, else 0.0: (n,).

    Raises: UsageError for empty input, shapes other than (n,), or different lengths.
    """
    a, b = codes_of(*_pair(predictions, labels))
    same: NDArray[np.float64] = (a == b).astype(np.float64)
    return same


def accuracy(predictions: object, labels: object) -> float:
    """Share of samples whose prediction is the label."""
    return float(correct(predictions, labels).mean())


def top_k_correct(scores: object, labels: object, *, k: int) -> NDArray[np.float64]:
    """1.0 where the label is among the k highest scores, else 0.0: (n,).

    Args:
        scores: (n, C), higher is more likely. Of equal scores the lower class index ranks first, as in ``argmax``.
        labels: (n,) integers, columns of ``scores``.
        k: 1 ≤ k ≤ C.
    """
    truth = labels_of(labels, "labels")
    table = to_numpy(scores)
    if table.ndim != 2 or len(table) != len(truth):
        raise UsageError(f"scores: expected shape ({len(truth)}, classes), got {table.shape}")
    num_classes = table.shape[1]
    if truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= num_classes:
        raise UsageError(f"labels: expected integers from 0 to {num_classes - 1}, the columns of scores")
    if not 1 <= k <= num_classes:
        raise UsageError(f"k: expected 1 to {num_classes} (the number of classes), got {k}")
    if np.isnan(table).any():
        raise UsageError("scores: some are NaN")
    own = table[np.arange(len(truth)), truth][:, None]
    before = np.arange(num_classes)[None] < truth[:, None]
    rank = (table > own).sum(1) + ((table == own) & before).sum(1)
    inside: NDArray[np.float64] = (rank < k).astype(np.float64)
    return inside


def top_k_accuracy(scores: object, labels: object, *, k: int) -> float:
    """Share of samples whose label is among the k highest of their (n, C) scores."""
    return float(top_k_correct(scores, labels, k=k).mean())


def confusion_matrix(predictions: object, labels: object, *, classes: object | None = None) -> ConfusionMatrix:
    """Counts of (label, prediction) pairs.

    Args:
        classes: rows and columns, in this order; default: every class seen in either, sorted.
    Raises: UsageError also when a label or prediction is not in ``classes``.
    """
    guess, truth = _pair(predictions, labels)
    codes_of(truth, guess)  # refuses text compared with numbers
    names = np.unique(np.concatenate([truth, guess])) if classes is None else labels_of(classes, "classes")
    known, row, column = codes_of(names, truth, guess)
    if len(np.unique(known)) != len(known):
        raise UsageError("classes: some are named twice")
    unseen = sorted({str(v) for v in np.concatenate([truth[~np.isin(row, known)], guess[~np.isin(column, known)]])})
    if unseen:
        raise UsageError(f"classes: {', '.join(unseen[:5])} occur but are not among the {len(known)} classes given")
    from sklearn.metrics import confusion_matrix as count_pairs  # here: commands that score nothing need not wait

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a single class, which a small part may well have
        return ConfusionMatrix(count_pairs(row, column, labels=known), names)


def balanced_accuracy(predictions: object, labels: object) -> float:
    """Mean over the classes present in ``labels`` of the share found; chance is 1 / classes, however unequal."""
    recalls = confusion_matrix(predictions, labels).recalls
    return float(recalls[~np.isnan(recalls)].mean())


def macro_f1(predictions: object, labels: object) -> float:
    """Mean F1 over the classes seen in labels or predictions; a class never found counts 0."""
    from sklearn.metrics import f1_score

    guess, truth = codes_of(*_pair(predictions, labels))
    return float(f1_score(truth, guess, average="macro"))
