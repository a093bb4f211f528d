"""The linear SVM probe: the contract, scikit-learn and the primal problem itself as oracles."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.svm import LinearSVC

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import DataError, UsageError
from unreel.protocols import FeatureSet, LinearSVM
from unreel.tasks.classification import score_head


class TestLinearSVM(ProtocolContract):
    protocol = LinearSVM()


class TestNormalized(ProtocolContract):
    protocol = LinearSVM(c=1.0, l2_normalize=True, standardize=True, views="vectors")


def test_the_defaults_are_the_papers():
    """Squared hinge with an L2 penalty at C = 100, in the primal, on features as they are."""
    svm = LinearSVM()
    assert (svm.c, svm.views, svm.l2_normalize, svm.standardize) == (100.0, "scores", False, False)


@pytest.mark.parametrize("classes", [2, 4])
def test_equals_scikit_learn(classes):
    train, test = blobs(1, classes=classes), blobs(2, classes=classes)
    fitted = LinearSVM().fit(train)
    same = train.canonical()
    oracle = LinearSVC(C=100, loss="squared_hinge", dual=False).fit(same.vectors, same.labels)
    outcomes = score_head(fitted, test)
    assert (outcomes.predictions.labels == oracle.predict(test.vectors)).all()
    assert outcomes.predictions.probabilities is None
    if classes == 4:
        order = [list(oracle.classes_).index(c) for c in fitted.card.classes]
        np.testing.assert_allclose(
            fitted.predict(test).scores, oracle.decision_function(test.vectors)[:, order], atol=1e-4
        )


def test_solves_the_primal_problem():
    """½‖(w, b)‖² + C Σ max(0, 1 − y·(w·x + b))², minimised by a general solver."""
    train = blobs(3, n=40, classes=2, d=3)
    fitted = LinearSVM(c=0.7).fit(train)
    y = np.where(train.labels == fitted.card.classes[1], 1.0, -1.0)
    x = np.concatenate([train.vectors.astype(float), np.ones((40, 1))], 1)

    def objective(w):
        return 0.5 * w @ w + 0.7 * (np.maximum(0, 1 - y * (x @ w)) ** 2).sum()

    best = minimize(objective, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    np.testing.assert_allclose([*fitted.coefficients[1], fitted.intercepts[1]], best, atol=2e-3)
    np.testing.assert_array_equal(fitted.coefficients[0], -fitted.coefficients[1])


def test_scores_are_averaged_over_views_and_views_share_a_samples_weight():
    train, test = blobs(1, views=3), blobs(2, n=30, views=3)
    fitted = LinearSVM(c=1.0).fit(train)
    slow = np.mean([fitted.logits(test.vectors[:, v]) for v in range(3)], axis=0)
    np.testing.assert_allclose(fitted.predict(test).scores, slow)
    # The same view three times is that view once.
    one = blobs(1)
    thrice = FeatureSet(one.vectors[:, None].repeat(3, 1), one.labels, one.groups, one.ids)
    a, b = LinearSVM(c=1.0).fit(one), LinearSVM(c=1.0).fit(thrice)
    np.testing.assert_allclose(a.coefficients, b.coefficients, atol=2e-3)
    by_vector = LinearSVM(c=1.0, views="vectors").fit(train)
    mean = train.mean_over_views()
    np.testing.assert_allclose(by_vector.coefficients, LinearSVM(c=1.0).fit(mean).coefficients)


def test_a_fit_that_did_not_converge_is_said():
    train = blobs(1, spread=5.0)
    outcomes = score_head(LinearSVM(max_iterations=1).fit(FeatureSet(100 * train.vectors, train.labels)), blobs(2))
    assert "stopped after 1 iterations" in outcomes.notes[0]
    assert outcomes.card.settings["converged"] is False


def test_impossible_settings_and_a_single_class_are_refused():
    for wrong in ({"c": 0}, {"views": "logits"}, {"max_iterations": 0}):
        with pytest.raises(UsageError):
            LinearSVM(**wrong)
    with pytest.raises(DataError, match="two classes"):
        LinearSVM().fit(FeatureSet(np.eye(3), np.zeros(3)))
    with pytest.raises(UsageError, match="same encoder"):
        LinearSVM().fit(blobs(1), validation=blobs(2, d=5))
