"""Weighted nearest neighbours: what frozen features tell without training anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import MinLen
from numpy.typing import NDArray

from unreel.core.checks import Count, Fraction, Positive, checked
from unreel.metrics.retrieval import Neighbours, nearest
from unreel.protocols.head import HEADS, HeadCard, Predictions
from unreel.protocols.protocol import class_card, encode, training_parts
from unreel.protocols.samples import FeatureSet, Inputs, as_features


def _votes(
    found: Neighbours, codes: NDArray[np.int64], num_classes: int, k: int, temperature: float
) -> NDArray[np.float64]:
    """Share of each class among the k nearest, weighted by exp(similarity / temperature): (Q, C)."""
    similarities = found.similarities[:, :k].astype(np.float64)
    # Relative to the nearest, so that a small temperature cannot overflow or leave all weights zero.
    weights = np.exp((similarities - similarities[:, :1]) / temperature)
    votes = np.zeros((len(weights), num_classes))
    np.add.at(votes, (np.arange(len(weights))[:, None], codes[found.indices[:, :k]]), weights)
    shares: NDArray[np.float64] = votes / votes.sum(1, keepdims=True)
    return shares


@HEADS.register("knn")
@dataclass(frozen=True)
class FittedKNN:
    """A gallery (G, D) of samples of known class, and the chosen k; predicts their weighted shares of votes."""

    card: HeadCard
    vectors: NDArray[Any]
    labels: NDArray[Any]
    k: int
    temperature: float
    form: ClassVar[str] = "knn"

    def predict(self, inputs: Inputs) -> Predictions:
        """Classes by their shares of the votes. Errors as ``Head.predict``."""
        features = as_features(inputs, self.vectors.shape[1])
        found = nearest(features.mean_over_views().vectors, self.vectors, k=self.k)
        codes = encode(self.labels, np.array(self.card.classes))
        shares = _votes(found, codes, len(self.card.classes), self.k, self.temperature)
        return Predictions("classes", self.card, scores=shares, probabilities=shares)


@checked
@dataclass(frozen=True)
class KNN:
    """Weighted k-nearest-neighbour classification by cosine (Wu et al. 2018, §3.4).

    Args:
        k: a number, or ``None`` to choose among ``candidates`` on validation samples. A k above the size of the
            gallery becomes that size, with a note.
        temperature: τ of the weights exp(cosine / τ); 0.07 is Wu et al.'s.
        candidates: tried when ``k`` is ``None``; ties go to the smaller. 20 (Caron et al. 2021) is used where no
            validation part can be cut.
        validation_fraction: share of each class kept for that choice.
    """

    k: Count | None = None
    temperature: Positive = 0.07
    candidates: Annotated[tuple[Count, ...], MinLen(1)] = (1, 3, 5, 10, 20, 50, 100, 200)
    validation_fraction: Fraction = 0.2
    name: str = "knn"

    def fit(self, train: FeatureSet, *, validation: FeatureSet | None = None, seed: int = 0) -> FittedKNN:
        """Keep the training samples as gallery and choose k. Errors as ``FeatureProtocol.fit``."""
        parts = training_parts(
            train.mean_over_views(),
            None if validation is None else validation.mean_over_views(),
            fraction=self.validation_fraction if self.k is None else None,
            seed=seed,
        )
        notes = parts.notes
        settings: dict[str, object] = {"temperature": self.temperature, "similarity": "cosine"}
        k = self.k if self.k is not None else 20
        if self.k is None and parts.validation is not None:
            possible = sorted({min(c, len(parts.train)) for c in self.candidates})
            found = nearest(parts.validation.vectors, parts.train.vectors, k=max(possible))
            codes = encode(parts.train.labels, parts.classes)
            truth = encode(parts.validation.labels, parts.classes)
            right = {
                c: float(np.mean(_votes(found, codes, len(parts.classes), c, self.temperature).argmax(1) == truth))
                for c in possible
            }
            k = min(possible, key=lambda c: (-right[c], c))
            settings |= {"k_chosen_on": len(parts.validation), "validation_accuracy": right[k]}
        if k > len(parts.everything):
            if self.k is not None:
                notes = (*notes, f"k={k} is more than the gallery holds; all {len(parts.everything)} vote")
            k = len(parts.everything)
        settings |= {"k": k, "n_train": len(parts.everything)}
        card = class_card(self.name, parts.classes, parts.everything.labels, settings, notes)
        return FittedKNN(card, parts.everything.vectors, parts.everything.labels, k, self.temperature)
