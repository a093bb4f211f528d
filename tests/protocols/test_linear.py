"""The linear probe and the linear SVM: the contract, scikit-learn as oracle, selection, scaling, averaging of views."""

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import DataError, UsageError
from unreel.protocols import FeatureSet, LinearProbe, LinearSVM
from unreel.protocols.linear import FeatureScaling, average_views, softmax
from unreel.tasks.classification import score_head


class TestLinear(ProtocolContract):
    protocol = LinearProbe()


class TestNormalized(ProtocolContract):
    protocol = LinearProbe(l2_normalize=True, standardize=False)


class TestViewsBehindTheHead(ProtocolContract):
    protocol = LinearProbe(views="probabilities", c=0.1)


@pytest.mark.parametrize("classes", [2, 4])
def test_equals_scikit_learn_at_one_c(classes):
    train, test = blobs(1, classes=classes), blobs(2, classes=classes)
    fitted = LinearProbe(c=0.3, standardize=False).fit(train)
    oracle = LogisticRegression(C=0.3, tol=1e-8, max_iter=5000).fit(train.vectors.astype(float), train.labels)
    order = [list(oracle.classes_).index(c) for c in fitted.card.classes]
    np.testing.assert_allclose(
        fitted.predict(test).probabilities, oracle.predict_proba(test.vectors)[:, order], atol=2e-3
    )


def test_a_warm_path_ends_where_a_cold_start_ends():
    train, test = blobs(1), blobs(2)
    chosen = LinearProbe().fit(train)
    cold = LinearProbe(c=chosen.card.settings["c"]).fit(train)
    np.testing.assert_allclose(chosen.predict(test).probabilities, cold.predict(test).probabilities, atol=1e-6)


def test_selection_regularises_when_features_are_noise():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    x = rng.normal(size=(120, 100))
    x[:, 0] += 1.5 * y
    assert LinearProbe().fit(FeatureSet(x, y)).card.settings["c"] <= 0.1


def test_selection_never_splits_a_group():
    """Each group has a feature of its own that gives its label away: only a cut by groups sees that it is useless."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    labels = groups % 2
    x = np.concatenate([10 * np.eye(40)[groups], (labels + rng.normal(0, 0.8, 200))[:, None]], 1)
    fitted = LinearProbe().fit(FeatureSet(x, labels, groups))
    assert fitted.card.settings["validation_accuracy"] < 0.95
    assert fitted.card.settings["c_chosen_on"] % 5 == 0


def test_refit_uses_training_and_validation_samples():
    assert LinearProbe().fit(blobs(1)).card.settings["n_train"] == 80


def test_two_samples_of_two_classes_fall_back_with_a_note():
    samples = FeatureSet(np.eye(2), np.array(["a", "b"]))
    outcomes = score_head(LinearProbe().fit(samples), samples)
    assert outcomes.score() == 1.0
    assert "no validation part" in outcomes.notes[0]
    assert outcomes.card.settings["c"] == 1.0


def test_labels_unseen_in_training_are_wrong_and_said():
    test = blobs(2, n=8)
    labels = test.labels.astype("U12")
    labels[0] = "elsewhere"
    outcomes = score_head(LinearProbe(c=1.0).fit(blobs(1)), FeatureSet(test.vectors, labels))
    assert outcomes.values["accuracy"][0] == 0
    assert outcomes.n == 8
    assert "elsewhere" in outcomes.notes[0]
    nowhere = FeatureSet(test.vectors, np.full(8, "elsewhere"))
    assert score_head(LinearProbe(c=1.0).fit(blobs(1)), nowhere).chance == {"accuracy": 0.0}


@pytest.mark.parametrize(("of_a", "chance"), [(6, 0.6), (2, 0.7 * 0.2 + 0.3 * 0.8)])
def test_chance_knows_training_labels_only(of_a, chance):
    """The better of answering "a" and guessing "a" in seven of ten cases."""
    x = np.random.default_rng(0).normal(size=(10, 2))
    train = FeatureSet(x, np.array(["a"] * 7 + ["b"] * 3))
    test = FeatureSet(x, np.array(["a"] * of_a + ["b"] * (10 - of_a)))
    assert score_head(LinearProbe(c=1.0).fit(train), test).chance == pytest.approx({"accuracy": chance})


def test_top5_appears_from_six_classes_on():
    outcomes = score_head(LinearProbe(c=1.0).fit(blobs(1, classes=8, n=160)), blobs(2, classes=8))
    assert outcomes.score("top5") >= outcomes.score("accuracy")
    assert outcomes.chance["top5"] == pytest.approx(5 / 8)


def test_unconverged_fits_are_noted():
    outcomes = score_head(LinearProbe(c=100.0, max_iterations=1).fit(blobs(1)), blobs(2))
    assert any("before convergence" in note for note in outcomes.notes)
    assert outcomes.card.settings["converged"] is False


def test_scaling():
    x = np.random.default_rng(0).normal(3, [1.0, 20.0, 0.0], (50, 3)).astype(np.float32)
    scaled = FeatureScaling.fit(x, l2_normalize=False, standardize=True)(x)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    unit = FeatureScaling(l2_normalize=True)(x)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert FeatureScaling(l2_normalize=True)(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


def test_large_and_small_features_are_the_same_to_a_standardised_probe():
    train, test = blobs(1), blobs(2)
    factor = np.array([1, 1e3, 1e-3, 1, 10, 1], np.float32)
    a = LinearProbe().fit(train).predict(test).probabilities
    wide = [FeatureSet(s.vectors * factor, s.labels, s.groups, s.ids) for s in (train, test)]
    np.testing.assert_allclose(LinearProbe().fit(wide[0]).predict(wide[1]).probabilities, a, atol=2e-3)


def test_check_24_softmax_averaging_differs_from_logit_averaging():
    """30 views, two classes: three sure views say one, twenty-seven lean to the other."""
    logits = np.zeros((1, 30, 2))
    logits[0, :3, 0] = 40.0
    logits[0, 3:, 1] = 1.0
    by_probability, by_logit = average_views(logits, "probabilities"), average_views(logits, "logits")
    assert by_probability.argmax() == 1
    assert by_logit.argmax() == 0
    # By hand: (3·1 + 27/(1 + e)) / 30, and σ((120 − 27) / 30).
    assert by_probability[0, 0] == pytest.approx((3 + 27 / (1 + np.e)) / 30)
    assert by_logit[0, 0] == pytest.approx(1 / (1 + np.exp(-93 / 30)))
    np.testing.assert_allclose(by_probability.sum(1), 1)
    with pytest.raises(UsageError, match="averages vectors before"):
        average_views(logits, "vectors")


def test_views_behind_the_head_average_the_heads_of_views():
    train, test = blobs(1, views=3), blobs(2, n=20, views=3)
    fitted = LinearProbe(views="probabilities", c=0.1).fit(train)
    slow = np.mean([softmax(fitted.logits(test.vectors[:, v])) for v in range(3)], axis=0)
    np.testing.assert_allclose(fitted.predict(test).probabilities, slow)
    fitted = LinearProbe(views="logits", c=0.1).fit(train)
    slow = softmax(np.mean([fitted.logits(test.vectors[:, v]) for v in range(3)], axis=0))
    np.testing.assert_allclose(fitted.predict(test).probabilities, slow)


def test_equal_views_are_one_view():
    train, test = blobs(1), blobs(2)
    tripled = [FeatureSet(np.repeat(s.vectors[:, None], 3, 1), s.labels, s.groups, s.ids) for s in (train, test)]
    a = LinearProbe(c=0.1).fit(train).predict(test).probabilities
    b = LinearProbe(c=0.1, views="probabilities").fit(tripled[0]).predict(tripled[1]).probabilities
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"c": 0.0}, {"c_values": (1.0, 0.1)}, {"c_values": ()}, {"views": "median"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        LinearProbe(**wrong)


class TestLinearSVM(ProtocolContract):
    protocol = LinearSVM()


class TestNormalizedSVM(ProtocolContract):
    protocol = LinearSVM(c=1.0, l2_normalize=True, standardize=True, views="vectors")


def test_the_svms_defaults_are_the_papers():
    """Squared hinge with an L2 penalty at C = 100, in the primal, on features as they are."""
    svm = LinearSVM()
    assert (svm.c, svm.views, svm.l2_normalize, svm.standardize) == (100.0, "scores", False, False)


@pytest.mark.parametrize("classes", [2, 4])
def test_the_svm_equals_scikit_learn(classes):
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


def test_an_svm_that_did_not_converge_is_said():
    train = blobs(1, spread=5.0)
    outcomes = score_head(LinearSVM(max_iterations=1).fit(FeatureSet(100 * train.vectors, train.labels)), blobs(2))
    assert "stopped after 1 iterations" in outcomes.notes[0]
    assert outcomes.card.settings["converged"] is False


def test_impossible_settings_of_an_svm_and_a_single_class_are_refused():
    for wrong in ({"c": 0}, {"views": "logits"}, {"max_iterations": 0}):
        with pytest.raises(UsageError):
            LinearSVM(**wrong)
    with pytest.raises(DataError, match="two classes"):
        LinearSVM().fit(FeatureSet(np.eye(3), np.zeros(3)))
    with pytest.raises(UsageError, match="same encoder"):
        LinearSVM().fit(blobs(1), validation=blobs(2, d=5))


def test_balanced_classes_weigh_the_same_in_fitting_and_in_the_choice_of_c():
    rng = np.random.default_rng(3)
    labels = np.array(["many"] * 180 + ["few"] * 20)
    vectors = (rng.normal(size=(200, 6)) + 0.8 * (labels == "few")[:, None]).astype(np.float32)
    train, groups = FeatureSet(vectors, labels, np.arange(200).astype(str)), np.arange(200) % 2
    fitted = LinearProbe(c=0.3, standardize=False, balanced=True).fit(train)
    oracle = LogisticRegression(C=0.3, tol=1e-8, max_iter=5000, class_weight="balanced").fit(vectors, labels)
    order = [list(oracle.classes_).index(c) for c in fitted.card.classes]
    np.testing.assert_allclose(
        fitted.predict(vectors).probabilities, oracle.predict_proba(vectors)[:, order], atol=2e-3
    )
    held, rest = train.select(groups == 0), train.select(groups == 1)
    chosen = LinearProbe(balanced=True).fit(rest, validation=held)
    recalls = []
    for c in chosen.card.settings["path"]:
        said = LinearProbe(c=c, balanced=True).fit(rest).predict(held.unlabelled).labels
        recalls.append(np.mean([np.mean(said[held.labels == name] == name) for name in ("many", "few")]))
    assert chosen.card.settings["validation_accuracy"] == pytest.approx(max(recalls), abs=0.03)
    assert max(recalls) > 0.75
