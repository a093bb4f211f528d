"""The protocol contract: arrays in, one outcome per test sample out.

A protocol is fitted on labelled training features and then scores test features. Whatever it selects (a
regularisation, a number of neighbours) it selects on validation samples cut from the training part by whole groups.
The test part is not an argument of ``fit``: its labels cannot influence anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.metrics.retrieval import Neighbours


@dataclass(frozen=True)
class FeatureSet:
    """Frozen features of N labelled samples.

    Attributes:
        vectors: (N, D), or (N, V, D) with one vector per view (clip or crop) of each sample; float32 or float64.
        labels: (N,), any type that can be compared.
        groups: (N,) names of what must not straddle parts (patient, scene); ``None``: each sample is its own.
        ids: (N,) unique names; ``None``: samples are told apart by their content.
    Raises: UsageError for shapes that disagree or features that are not finite.
    """

    vectors: NDArray[Any]
    labels: NDArray[Any]
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
        """D."""
        return int(self.vectors.shape[-1])

    def select(self, rows: ArrayLike) -> FeatureSet:
        """The samples at these indices or under this mask."""
        index = np.asarray(rows)
        return FeatureSet(
            self.vectors[index],
            self.labels[index],
            None if self.groups is None else self.groups[index],
            None if self.ids is None else self.ids[index],
        )

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


@dataclass(frozen=True)
class Outcomes:
    """What a fitted protocol did on each of the N test samples.

    Attributes:
        protocol: its name.
        values: metric name → (N,) outcome per sample; the score is the mean.
        chance: metric name → the score without looking at the input (``chance_rule`` says how it is reached).
        primary: the metric quoted when one number is asked for.
        labels, groups, ids: of the test samples.
        predictions, probabilities: (N,) and (N, C) over ``classes``, for protocols that classify; ``class_shares``
            (C,) are the shares of the classes in training.
        neighbours: rows into ``gallery_ids``, for protocols that retrieve.
        settings: what was chosen and how (C, k, size of the validation part …), plain values.
        notes: what a reader should know (a class absent from training, an optimiser that did not converge).
    """

    protocol: str
    values: Mapping[str, NDArray[np.float64]]
    chance: Mapping[str, float]
    primary: str
    labels: NDArray[Any]
    groups: NDArray[Any] | None = None
    ids: NDArray[Any] | None = None
    predictions: NDArray[Any] | None = None
    probabilities: NDArray[np.float64] | None = None
    classes: NDArray[Any] | None = None
    class_shares: NDArray[np.float64] | None = None
    neighbours: Neighbours | None = None
    gallery_ids: NDArray[Any] | None = None
    gallery_labels: NDArray[Any] | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    chance_rule: str = ""

    @property
    def n(self) -> int:
        """Number of test samples."""
        return len(self.labels)

    def score(self, metric: str | None = None) -> float:
        """Mean outcome of a metric (the primary one by default)."""
        name = self.primary if metric is None else metric
        if name not in self.values:
            raise UsageError(f"{self.protocol} has no metric {name!r}; it has {', '.join(self.values)}")
        return float(self.values[name].mean())


@runtime_checkable
class FittedProtocol(Protocol):
    """A protocol after ``fit``: plain arrays, picklable."""

    def score(self, test: FeatureSet) -> Outcomes:
        """One outcome per test sample, in the order given. Raises UsageError when the widths differ."""


@runtime_checkable
class FeatureProtocol(Protocol):
    """How frozen features are put to a test.

    Pure: equal training samples, in any order, and an equal seed give equal outcomes; renaming labels changes nothing.
    """

    @property
    def name(self) -> str:
        """Short name in reports ("linear")."""

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedProtocol:
        """Fit on ``train``; select on ``validation`` if given, else on a part cut from ``train`` by whole groups.

        Raises: DataError when the training part cannot be used (one class only, say).
        """


class ClassifierOutcome:
    """What the protocols that classify share: labels to integers and back, chance, per-sample outcomes."""

    @staticmethod
    def classes_in_order(labels: NDArray[Any]) -> NDArray[Any]:
        """Distinct labels by first appearance: with canonical samples, independent of what the labels are called."""
        _, first = np.unique(labels, return_index=True)
        ordered: NDArray[Any] = labels[np.sort(first)]
        return ordered

    @staticmethod
    def encode(labels: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
        """Position of each label in ``classes``; −1 for labels that are not there."""
        if (labels.dtype.kind in "US") != (classes.dtype.kind in "US"):
            raise UsageError("training and test labels are text in one part and numbers in the other")
        order = np.argsort(classes, kind="stable")
        position = np.clip(np.searchsorted(classes[order], labels), 0, len(classes) - 1)
        codes = np.where(classes[order][position] == labels, order[position], -1)
        return codes.astype(np.int64)

    @staticmethod
    def outcomes(
        protocol: str,
        probabilities: NDArray[np.float64],
        classes: NDArray[Any],
        counts: NDArray[np.int64],
        test: FeatureSet,
        settings: Mapping[str, object],
        notes: tuple[str, ...],
    ) -> Outcomes:
        """Outcomes of classifying: accuracy, and top-5 accuracy from six classes on.

        ``counts``: training samples per class, which is all that chance may know.
        """
        truth = ClassifierOutcome.encode(test.labels, classes)
        # argsort is stable: of equal probabilities the earlier class wins, as in argmax.
        ranking = np.argsort(-probabilities, axis=1, kind="stable")
        values = {"accuracy": (ranking[:, 0] == truth).astype(np.float64)}
        by_frequency = np.argsort(-counts, kind="stable")
        shares = counts / counts.sum()
        guessing = float(np.where(truth >= 0, shares[truth], 0.0).mean())
        chance = {"accuracy": max(float(np.mean(truth == by_frequency[0])), guessing)}
        if len(classes) > 5:
            values["top5"] = (ranking[:, :5] == truth[:, None]).any(1).astype(np.float64)
            chance["top5"] = float(np.isin(truth, by_frequency[:5]).mean())
        unseen = np.unique(test.labels[truth < 0])
        if unseen.size:
            names = ", ".join(str(v) for v in unseen[:5])
            notes = (
                *notes,
                f"{int((truth < 0).sum())} test samples have a label that training never shows ({names}): "
                "wrong by definition",
            )
        return Outcomes(
            protocol,
            values,
            chance,
            "accuracy",
            test.labels,
            test.groups,
            test.ids,
            predictions=classes[ranking[:, 0]],
            probabilities=probabilities,
            classes=classes,
            class_shares=shares,
            settings=settings,
            notes=notes,
            chance_rule="the better of always answering the most frequent training class and guessing at its shares",
        )


def group_cut(samples: FeatureSet, *, fraction: float = 0.2, seed: int = 0) -> NDArray[np.bool_] | None:
    """Mask (N,) of a validation part made of whole groups, about ``fraction`` of each class.

    Groups are visited in an order keyed by their name and taken while a class of theirs lacks validation samples and
    every class of theirs keeps another training group. ``None`` when nothing can be taken without emptying a class.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"fraction: expected a number between 0 and 1, got {fraction}")
    units = samples.names() if samples.groups is None else samples.groups.astype(str)
    unit_names, unit_of = np.unique(units, return_inverse=True)
    class_names, class_of = np.unique(samples.labels, return_inverse=True)
    table = np.zeros((len(unit_names), len(class_names)), dtype=np.int64)
    np.add.at(table, (unit_of, class_of), 1)
    wanted = fraction * table.sum(0)
    left = (table > 0).sum(0)
    taken = np.zeros(len(class_names), dtype=np.int64)
    chosen = np.zeros(len(unit_names), dtype=bool)
    key = Key(seed, "validation")
    for unit in sorted(range(len(unit_names)), key=lambda u: (key.child(str(unit_names[u])).uniform(), unit_names[u])):
        has = table[unit] > 0
        if (taken[has] < wanted[has]).any() and (left[has] > 1).all():
            chosen[unit] = True
            taken += table[unit]
            left -= has
    return chosen[unit_of] if chosen.any() else None


@dataclass(frozen=True)
class TrainingParts:
    """Training samples in canonical order, and the part of them kept for selection.

    ``validation`` is ``None`` where no part could be cut; ``everything`` is both together.
    """

    train: FeatureSet
    validation: FeatureSet | None
    everything: FeatureSet
    classes: NDArray[Any]
    notes: tuple[str, ...]


def training_parts(
    train: FeatureSet, validation: FeatureSet | None, *, fraction: float, seed: int, needs_selection: bool
) -> TrainingParts:
    """Check the training samples and cut a validation part where none is given and one is needed.

    Raises: DataError for a single class; UsageError when train and validation differ in width.
    """
    train = train.canonical()
    notes: tuple[str, ...] = ()
    everything = train
    if validation is not None:
        if validation.num_features != train.num_features or validation.vectors.ndim != train.vectors.ndim:
            raise UsageError(
                f"train features have shape {train.vectors.shape[1:]}, validation {validation.vectors.shape[1:]}"
            )
        validation = validation.canonical()
        everything = train.joined(validation).canonical()
    elif needs_selection:
        mask = group_cut(train, fraction=fraction, seed=seed)
        if mask is None:
            notes = ("no validation part could be cut without emptying a class: the default setting was used",)
        else:
            train, validation = train.select(~mask), train.select(mask)
    classes = ClassifierOutcome.classes_in_order(everything.labels)
    if len(classes) < 2:
        raise DataError(f"training needs at least two classes, all {len(everything)} samples are {classes[0]!r}")
    return TrainingParts(train, validation, everything, classes, notes)


def check_width(test: FeatureSet, num_features: int) -> None:
    """Raise UsageError unless the test features are as wide as those the protocol was fitted on."""
    if test.num_features != num_features:
        raise UsageError(
            f"fitted on {num_features} features, the test part has {test.num_features}: "
            "both must come from the same encoder and layer"
        )
