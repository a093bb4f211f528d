"""The protocol contract: arrays in, a head out.

A protocol is fitted on labelled training features and leaves a head, which predicts. Whatever it selects (a
regularisation, a number of neighbours) it selects on validation samples cut from the training part by whole groups.
The test part is not an argument of ``fit``: its labels cannot influence anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Fraction, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.protocols.head import Head, HeadCard
from unreel.protocols.samples import FeatureSet


@runtime_checkable
class FeatureProtocol(Protocol):
    """How frozen features are put to a test.

    Pure: equal training samples, in any order, and an equal seed give equal outcomes; renaming labels changes nothing.
    """

    @property
    def name(self) -> str:
        """Short name in reports ("linear")."""

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> Head:
        """Fit on ``train``; select on ``validation`` if given, else on a part cut from ``train`` by whole groups.

        Raises: DataError when the training part cannot be used (one class only, say).
        """


def encode(labels: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Position of each label in ``classes``; −1 for labels that are not there."""
    if (labels.dtype.kind in "US") != (classes.dtype.kind in "US"):
        raise UsageError("training and test labels are text in one part and numbers in the other")
    order = np.argsort(classes, kind="stable")
    position = np.clip(np.searchsorted(classes[order], labels), 0, len(classes) - 1)
    codes = np.where(classes[order][position] == labels, order[position], -1)
    return codes.astype(np.int64)


def class_card(
    protocol: str,
    classes: NDArray[Any],
    labels: NDArray[Any],
    settings: Mapping[str, object],
    notes: tuple[str, ...],
) -> HeadCard:
    """The card of a head that classifies, fitted on samples of these labels."""
    counts = np.bincount(encode(labels, classes), minlength=len(classes))
    names, numbers = tuple(classes.tolist()), tuple(counts.tolist())
    return HeadCard(protocol, classes=names, counts=numbers, settings=settings, notes=notes)


@checked
def group_cut(samples: FeatureSet, *, fraction: Fraction = 0.2, seed: int = 0) -> NDArray[np.bool_] | None:
    """Mask (N,) of a validation part made of whole groups, about ``fraction`` of each class.

    Groups are visited in an order keyed by their name and taken while a class of theirs lacks validation samples and
    every class of theirs keeps another training group. ``None`` when nothing can be taken without emptying a class.
    """
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
    train: FeatureSet, validation: FeatureSet | None, *, fraction: float | None = None, seed: int = 0
) -> TrainingParts:
    """Check the training samples and cut a validation part, ``fraction`` of each class, where none is given.

    Without a ``fraction`` nothing is to be selected, and nothing is cut.
    Raises: DataError for a single class; UsageError when train and validation differ in width.
    """
    train = train.canonical()
    notes: tuple[str, ...] = ()
    everything = train
    if validation is not None:
        if validation.num_features != train.num_features or validation.vectors.ndim != train.vectors.ndim:
            raise UsageError(
                f"train features have shape {train.vectors.shape[1:]}, validation {validation.vectors.shape[1:]}: "
                "both must come from the same encoder and layer"
            )
        validation = validation.canonical()
        everything = train.joined(validation).canonical()
    elif fraction is not None:
        mask = group_cut(train, fraction=fraction, seed=seed)
        if mask is None:
            notes = ("no validation part could be cut without emptying a class: the default setting was used",)
        else:
            train, validation = train.select(~mask), train.select(mask)
    # By first appearance: in canonical order, what the classes are called changes nothing.
    _, first = np.unique(everything.labels, return_index=True)
    classes = everything.labels[np.sort(first)]
    if len(classes) < 2:
        raise DataError(f"training needs at least two classes, all {len(everything)} samples are {classes[0]!r}")
    return TrainingParts(train, validation, everything, classes, notes)
