"""What every metric does with its arguments: one kind of array in, clear refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unreel.core.errors import UsageError


def to_numpy(values: object) -> NDArray[Any]:
    """A NumPy array of a tensor (any device), a list or an array; lists of names become arrays of strings."""
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    array = np.asarray(values)
    return array.astype(str) if array.dtype == object else array


def labels_of(values: object, name: str, *, length: int | None = None) -> NDArray[Any]:
    """Labels (n,) of any kind that can be compared. Raises UsageError for another shape, length, or NaN labels."""
    array = to_numpy(values)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{name}: expected one label per sample, shape (n,) with n ≥ 1, got shape {array.shape}")
    if length is not None and len(array) != length:
        raise UsageError(f"{name}: expected {length} labels, got {len(array)}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise UsageError(f"{name}: {int(np.isnan(array).sum())} labels are NaN; leave unlabelled samples out")
    return array


def boxes_of(values: object, name: str, holds: str = "boxes (N, 4) x1 y1 x2 y2") -> NDArray[np.float64]:
    """Rows of four numbers, (N, 4) float64, N ≥ 0. Raises UsageError for another shape."""
    array = np.asarray(to_numpy(values), dtype=np.float64)
    array = array.reshape(0, 4) if array.size == 0 else array
    if array.ndim != 2 or array.shape[1] != 4:
        raise UsageError(f"{name}: expected {holds}, got shape {array.shape}")
    return array


def codes_of(*labels: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """The same integer for the same label across several arrays (0, 1, … in sorted order)."""
    kinds = {"text" if a.dtype.kind in "US" else "number" for a in labels}
    if len(kinds) > 1:
        raise UsageError("labels to compare are text in one place and numbers in another; use one kind for both")
    _, codes = np.unique(np.concatenate(labels), return_inverse=True)
    ends = np.cumsum([len(a) for a in labels])[:-1]
    return tuple(part.astype(np.int64) for part in np.split(codes, ends))
