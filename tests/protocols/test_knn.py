"""Weighted kNN: the contract, a slow oracle, the choice of k."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import UsageError
from unreel.protocols import KNN, FeatureSet
from unreel.tasks.classification import score_head


class TestKNN(ProtocolContract):
    protocol = KNN()


class TestFixedK(ProtocolContract):
    protocol = KNN(k=5)


def test_equals_scikit_learn_with_the_same_weights():
    train, test = blobs(1), blobs(2, n=40)
    unit = [s.vectors / np.linalg.norm(s.vectors, axis=1, keepdims=True) for s in (train, test)]
    # On unit vectors cosine = 1 − d²/2.
    oracle = KNeighborsClassifier(9, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07)).fit(unit[0], train.labels)
    fitted = KNN(k=9).fit(train)
    ours = fitted.predict(test).probabilities
    theirs = oracle.predict_proba(unit[1])
    order = [list(oracle.classes_).index(c) for c in fitted.card.classes]
    np.testing.assert_allclose(ours, theirs[:, order], atol=1e-4)


def test_worked_votes():
    train = FeatureSet(np.array([[1.0, 0], [0, 1.0], [0, 2.0]]), np.array(["a", "b", "b"]))
    shares = KNN(k=3, temperature=1.0).fit(train)
    test = FeatureSet(np.array([[1.0, 0.0]]), np.array(["a"]))
    by_name = dict(zip(shares.card.classes, shares.predict(test).probabilities[0], strict=True))
    assert by_name["a"] == pytest.approx(np.e / (np.e + 2))


def test_tiny_temperature_does_not_overflow():
    outcomes = score_head(KNN(k=5, temperature=1e-4).fit(blobs(1)), blobs(2))
    assert np.isfinite(outcomes.predictions.probabilities).all()


def test_k_is_chosen_where_it_matters():
    """Labels flipped at random: one neighbour copies the noise, many average it out."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(2, 0.6, (200, 2)), rng.normal(-2, 0.6, (200, 2))])
    y = np.repeat([0, 1], 200) ^ (rng.random(400) < 0.3)
    fitted = KNN().fit(FeatureSet(x, y))
    assert fitted.k > 5
    assert fitted.card.settings["k_chosen_on"] == pytest.approx(80, abs=2)


def test_k_beyond_the_gallery_is_capped_with_a_note():
    outcomes = score_head(KNN(k=500).fit(blobs(1, n=12)), blobs(2, n=8))
    assert outcomes.card.settings["k"] == 12
    assert "all 12 vote" in outcomes.notes[0]


@pytest.mark.parametrize("wrong", [{"k": 0}, {"temperature": 0.0}, {"candidates": ()}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        KNN(**wrong)
