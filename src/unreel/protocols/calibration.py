"""Temperature scaling: one number that makes probabilities of held-out samples as sure as they are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from unreel.protocols.head import Head, Predictions, with_card
from unreel.protocols.protocol import FeatureProtocol, encode, group_cut
from unreel.protocols.samples import FeatureSet

_LOG_BOUNDS = (-6.0, 6.0)


def fit_temperature(predictions: Predictions, labels: NDArray[Any]) -> float:
    """The temperature of least cross-entropy on held-out samples (Guo et al. 2017, §4.2).

    Targets are Platt's (1999, §2.2), (n + 1) / (n + C) for the right class and 1 / (n + C) for each other: so few
    samples, all of them right, do not make a head certain.
    """
    codes = encode(labels, predictions.classes)
    known = codes >= 0
    logits, codes = predictions.logits[known], codes[known]
    n, num_classes = logits.shape
    targets = np.full(logits.shape, 1 / (n + num_classes))
    targets[np.arange(n), codes] = (n + 1) / (n + num_classes)

    def loss(log_temperature: float) -> float:
        return float(-(targets * log_softmax(logits / np.exp(log_temperature), axis=1)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded").x))


def fit_calibrated(
    protocol: FeatureProtocol, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0
) -> Head:
    """``protocol.fit``, with a temperature on the card.

    The temperature is that of a head fitted without the validation part, on which it is measured. Where there is no
    validation part and none can be cut, the card has no temperature and a note.
    Raises: DataError as ``FeatureProtocol.fit``.
    """
    head = protocol.fit(train, validation=validation, seed=seed)
    held, rest = validation, train
    if held is None:
        samples = train.canonical()
        mask = group_cut(samples, seed=seed)
        if mask is None:
            note = "probabilities are not calibrated: no validation part could be cut without emptying a class"
            return with_card(head, notes=(*head.card.notes, note))
        held, rest = samples.select(mask), samples.select(~mask)
    measured = protocol.fit(rest, seed=seed).predict(held.unlabelled)
    return with_card(head, temperature=fit_temperature(measured, held.labels))
