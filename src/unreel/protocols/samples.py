"""Samples as arrays: features with what is known of them, and what is right for them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unreel.core.errors import DataError, UsageError


@dataclass(frozen=True)
class Truth:
    """What is right for N samples, known to tasks and never to heads.

    Attributes:
        labels: (N,), any type that can be compared.
        groups: (N,) names of what must not straddle parts (patient, scene); ``None``: each sample is its own.
        ids: (N,) unique names; ``None`` where samples have none.
    """

    labels: NDArray[Any]
    groups: NDArray[Any] | None = None
    ids: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class FeatureSet:
    """Frozen features of N samples.

    Attributes:
        vectors: (N, D), or (N, V, D) with one vector per view (clip or crop) of each sample; float32 or float64.
        labels: (N,), any type that can be compared; empty text where none are given.
        groups: (N,) names of what must not straddle parts (patient, scene); ``None``: each sample is its own.
        ids: (N,) unique names; ``None``: samples are told apart by their content.
    Raises: UsageError for shapes that disagree or features that are not finite.
    """

    vectors: NDArray[Any]
    labels: NDArray[Any] = field(default_factory=lambda: np.empty(0, "U1"))
    groups: NDArray[Any] | None = None
    ids: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        vectors = np.asarray(self.vectors)
        if vectors.dtype not in (np.float32, np.float64):
            vectors = vectors.astype(np.float32)
        if vectors.ndim not in (2, 3) or 0 in vectors.shape:
            raise UsageError(f"features: expected (N, D) or (N, views, D), none of them 0, got {vectors.shape}")
        if not np.isfinite(vectors).all():
            bad = int((~np.isfinite(vectors).reshape(len(vectors), -1).all(1)).sum())
            raise UsageError(f"features: {bad} of {len(vectors)} samples have values that are not finite")
        object.__setattr__(self, "vectors", vectors)
        if not len(self.labels):
            object.__setattr__(self, "labels", np.full(len(vectors), "", "U1"))
        for name in ("labels", "groups", "ids"):
            value = getattr(self, name)
            if value is None:
                continue
            array = np.asarray(value)
            if array.dtype == object:
                array = array.astype(str)
            if array.shape != (len(vectors),):
                raise UsageError(f"{name}: expected one per sample, shape ({len(vectors)},), got {array.shape}")
            object.__setattr__(self, name, array)
        if self.ids is not None and len(np.unique(self.ids)) != len(vectors):
            raise UsageError("ids: some occur twice; a sample is one row, its views go along the second axis")

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def num_features(self) -> int:
        return int(self.vectors.shape[-1])

    @property
    def truth(self) -> Truth:
        """What is right, without the features."""
        return Truth(self.labels, self.groups, self.ids)

    @property
    def unlabelled(self) -> FeatureSet:
        """The same samples without their labels."""
        return FeatureSet(self.vectors, groups=self.groups, ids=self.ids)

    def select(self, rows: ArrayLike) -> FeatureSet:
        """The samples at these indices or under this mask."""
        index = np.asarray(rows)
        return FeatureSet(**{name: array[index] for name, array in vars(self).items() if array is not None})

    def joined(self, other: FeatureSet) -> FeatureSet:
        """Both, one after the other; groups and ids are kept where both have them."""

        def both(a: NDArray[Any] | None, b: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if a is None or b is None else np.concatenate([a, b])

        return FeatureSet(
            np.concatenate([self.vectors, other.vectors]),
            np.concatenate([self.labels, other.labels]),
            both(self.groups, other.groups),
            both(self.ids, other.ids),
        )

    def mean_over_views(self) -> FeatureSet:
        """(N, D) vectors: the mean over views, in float64 before rounding."""
        if self.vectors.ndim == 2:
            return self
        return replace(self, vectors=self.vectors.mean(1, dtype=np.float64).astype(self.vectors.dtype))

    def names(self) -> NDArray[Any]:
        """A name per sample that does not depend on the order of samples: the id, or a hash of vector and label."""
        if self.ids is not None:
            return self.ids.astype(str)
        rows = np.ascontiguousarray(self.vectors).reshape(len(self), -1)
        return np.array(
            [
                hashlib.blake2b(row.tobytes() + str(label).encode(), digest_size=16).hexdigest()
                for row, label in zip(rows, self.labels, strict=True)
            ]
        )

    def canonical(self) -> FeatureSet:
        """The same samples sorted by name, so that no result depends on the order they came in, to the last bit."""
        return self.select(np.argsort(self.names(), kind="stable"))


Inputs: TypeAlias = FeatureSet | NDArray[Any] | Tensor
"""What a head predicts from: vectors (N, D) or (N, V, D), with or without ids and groups; or maps (N, C, T, h, w)."""


def as_features(inputs: Inputs, num_features: int) -> FeatureSet:
    """Vectors as a ``FeatureSet``.

    Raises: UsageError unless they are as wide as those the head was fitted on.
    """
    if isinstance(inputs, Tensor):
        inputs = inputs.detach().cpu().numpy()
    features = inputs if isinstance(inputs, FeatureSet) else FeatureSet(inputs)
    check_width(features, num_features)
    return features


def check_unique(ids: NDArray[Any]) -> None:
    """Raise DataError where a source is listed twice."""
    names, number = np.unique(ids.astype(str), return_counts=True)
    twice = names[number > 1]
    if len(twice):
        are = f"{len(twice)} sources are" if len(twice) > 1 else "1 source is"
        raise DataError(f"{are} listed twice, such as {twice[0]}: remove the repetitions")


def check_width(features: FeatureSet, num_features: int) -> None:
    """Raise UsageError unless the features are as wide as those that a head is or was fitted on."""
    if features.num_features != num_features:
        raise UsageError(
            f"fitted on {num_features} features, these have {features.num_features}: "
            "both must come from the same encoder and layer"
        )
