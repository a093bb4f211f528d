"""How sure a head may be, and how often it will be right: both from cross-validation over whole groups.

Each labelled sample is asked of a head that was fitted without any sample of its group. All of them together give the
temperature that makes probabilities honest, and the accuracy to expect on other samples, with a prediction interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from unreel.core.words import counted
from unreel.data.splits import group_kfold, hash_unit
from unreel.protocols.head import Expected, H, Head, Predictions, with_card
from unreel.protocols.protocol import FeatureProtocol, encode
from unreel.protocols.samples import FeatureSet

Mask: TypeAlias = "NDArray[np.bool_]"
Ask: TypeAlias = Callable[[Mask, Mask], Predictions]
"""Fit a head on the samples of the first mask, and let it speak of those of the second."""

LEVEL = 0.9
FOLDS = 5
# The least correlation between samples of a group.
_AGREEMENT = 0.2
# Of the logarithm of a temperature.
_LOG_BOUNDS = (-6.0, 6.0)
# More samples than this make no visible difference to an interval.
_MANY = 10_000


class Held(NamedTuple):
    """What a head said of samples that it had not seen, and their labels."""

    predictions: Predictions
    labels: NDArray[Any]


def fit_temperature(held: Sequence[Held]) -> float:
    """The temperature of least cross-entropy on held-out samples (Guo et al. 2017, §4.2).

    Targets are Platt's (1999, §2.2), (n + 1) / (n + C) for the right class and 1 / (n + C) for each other: so few
    samples, all of them right, do not make a head certain. Samples of a class that their head does not know are left
    out.
    """
    parts = [(h.predictions.logits, encode(h.labels, h.predictions.classes)) for h in held]
    parts = [(logits[codes >= 0], codes[codes >= 0]) for logits, codes in parts]
    n = sum(len(codes) for _, codes in parts)
    aims = []
    for logits, codes in parts:
        aim = np.full(logits.shape, 1 / (n + logits.shape[1]))
        aim[np.arange(len(codes)), codes] = (n + 1) / (n + logits.shape[1])
        aims.append(aim)

    def loss(log_temperature: float) -> float:
        scale = np.exp(log_temperature)
        return math.fsum(
            -float((aim * log_softmax(logits / scale, axis=1)).sum())
            for aim, (logits, _) in zip(aims, parts, strict=True)
        )

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded").x))


def design_effect(right: NDArray[np.float64], units: NDArray[Any]) -> float:
    """How many samples of these groups say as much as one that stands alone (Kish 1965, §5.4).

    The variance of the mean over whole groups, against that of as many independent samples. Few groups hardly show it,
    so that it is at least what a small agreement within groups makes.
    """
    _, code = np.unique(units, return_inverse=True)
    sizes, share = np.bincount(code).astype(float), float(right.mean())
    groups, n = len(sizes), len(right)
    alone = share * (1 - share) / n
    least = 1 + (float((sizes**2).sum()) / n - 1) * _AGREEMENT
    if groups < 2 or alone == 0:
        return least
    sums = np.bincount(code, weights=right - share)
    together = groups / (groups - 1) * float((sums**2).sum()) / n**2
    return max(least, together / alone)


def prediction_interval(
    right: NDArray[np.float64], units: NDArray[Any], *, folds: int, others: int | None = None, level: float = LEVEL
) -> tuple[float, float]:
    """Between which shares of ``others`` new samples will be right, in ``level`` of such cases.

    Both are samples: those that were asked, and those to come. Beta-binomial, from Jeffreys' prior. Samples of a group
    count for fewer than they are (``design_effect``); and since the heads of ``folds`` folds share most of their
    training samples, their answers vary together: the variance is larger by 1 + K / (K − 1) (Nadeau and Bengio 2003,
    §3.2). ``others=None``: of very many.
    """
    effect = design_effect(right, units)
    overlap = 1 + folds / (folds - 1)
    hits, misses = (float(count) / (effect * overlap) for count in (right.sum(), (1 - right).sum()))
    coming = max(1, round(min(others or _MANY, _MANY) / effect))
    low, high = stats.betabinom(coming, hits + 0.5, misses + 0.5).interval(level)
    return float(low) / coming, float(high) / coming


class CrossValidated(NamedTuple):
    """What goes on a head's card: the temperature, and the accuracy to expect, where they can be measured."""

    temperature: float | None
    expected: Expected | None
    note: str = ""

    def on_card(self, head: H) -> H:
        """The same head with it on its card."""
        notes = (*head.card.notes, self.note) if self.note else head.card.notes
        return with_card(head, temperature=self.temperature, expected=self.expected, notes=notes)


def cross_validate(
    ask: Ask,
    labels: NDArray[Any],
    units: NDArray[Any],
    *,
    noun: str = "group",
    others: int | None = None,
    seed: int = 0,
) -> CrossValidated:
    """Ask about each sample a head that was fitted without its group, in five folds, or as many as there are groups.

    Args:
        ask: where the training part has one class, it is not called, and the answer is that class.
        labels: (N,). units: (N,) what must not be split. noun: what a unit is called.
        others: how many samples the head will be asked about.
    """
    names = np.array([str(unit) for unit in units])
    count = len(np.unique(names))
    if count < 2:
        return CrossValidated(None, None, f"the accuracy to expect is not known: all labels are of one {noun}")
    folds = min(FOLDS, count)
    keyed = [f"{hash_unit(name, seed):.17f} {name}" for name in names]
    fold_of = np.array(group_kfold(keyed, folds, labels=[str(label) for label in labels]))
    right, held = np.zeros(len(labels)), []
    for fold in range(folds):
        test = fold_of == fold
        seen = np.unique(labels[~test])
        if len(seen) < 2:
            right[test] = labels[test] == seen[0]
            continue
        said = ask(~test, test)
        right[test] = said.labels == labels[test]
        held.append(Held(said, labels[test]))
    low, high = prediction_interval(right, names, folds=folds, others=others)
    how = f"cross-validation in {folds} folds, over {counted(count, noun)}"
    if others is not None:
        how += f"; a prediction interval for {counted(others, 'other clip')}"
    accuracy = float(right.mean())
    expected = Expected(accuracy, min(low, accuracy), max(high, accuracy), LEVEL, len(labels), count, how)
    known = any(np.isin(h.labels, h.predictions.classes).any() for h in held)
    note = "" if known else "probabilities are not calibrated: no class has labels in two parts"
    return CrossValidated(fit_temperature(held) if known else None, expected, note)


def fit_calibrated(
    protocol: FeatureProtocol,
    train: FeatureSet,
    *,
    validation: FeatureSet | None = None,
    noun: str = "group",
    others: int | None = None,
    seed: int = 0,
) -> Head:
    """``protocol.fit``, with a temperature and the accuracy to expect on the card, both from cross-validation.

    Where neither can be measured, the card says so in a note.

    Args:
        validation: what the protocol selects on; it is labelled all the same, and is cross-validated, too.
        noun, others: see ``cross_validate``; units are the samples' groups.
    Raises: DataError as ``FeatureProtocol.fit``.
    """
    head = protocol.fit(train, validation=validation, seed=seed)
    samples = (train if validation is None else train.joined(validation)).canonical()
    units = samples.names() if samples.groups is None else samples.groups

    def ask(training: Mask, test: Mask) -> Predictions:
        return protocol.fit(samples.select(training), seed=seed).predict(samples.select(test).unlabelled)

    found = cross_validate(ask, samples.labels, units, noun=noun, others=others, seed=seed)
    return found.on_card(head)
