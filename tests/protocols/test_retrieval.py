"""The retrieval protocol: the contract, the metric functions as oracle, exclusions."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import UsageError
from unreel.metrics.retrieval import hit_at_k, mean_average_precision
from unreel.protocols import FeatureSet, Retrieval
from unreel.tasks.classification import score_head


class TestRetrieval(ProtocolContract):
    protocol = Retrieval()


def test_scores_are_those_of_the_metric_functions():
    train, test = blobs(1, prefix="train"), blobs(2, prefix="test")
    outcomes = score_head(Retrieval().fit(train), test)
    args = (test.vectors, train.vectors, test.labels, train.labels)
    for k in (1, 5, 10, 20, 50):
        assert outcomes.score(f"hit@{k}") == pytest.approx(hit_at_k(*args, k))
    assert outcomes.score("mAP") == pytest.approx(mean_average_precision(*args))
    assert outcomes.primary == "hit@1"


def test_a_gallery_that_holds_the_queries_never_returns_them():
    samples = blobs(1)
    outcomes = score_head(Retrieval(exclude="source").fit(samples), samples)
    nearest = outcomes.predictions.gallery.ids[outcomes.predictions.neighbours.indices[:, 0]]
    assert (nearest != samples.ids).all()
    assert outcomes.score() < 1


def test_groups_are_excluded_by_default():
    samples = blobs(1)
    outcomes = score_head(Retrieval().fit(samples), samples)
    gallery_groups = dict(zip(samples.ids, samples.groups, strict=True))
    for row, group in zip(outcomes.predictions.neighbours.indices, samples.groups, strict=True):
        assert group not in {gallery_groups[i] for i in outcomes.predictions.gallery.ids[row[row >= 0]]}


def test_k_beyond_the_gallery_is_left_out_with_a_note():
    outcomes = score_head(Retrieval().fit(blobs(1, n=12)), blobs(2, n=8, prefix="t"))
    assert list(outcomes.values) == ["hit@1", "hit@5", "hit@10", "mAP"]
    assert outcomes.notes[0].startswith("hit@20, hit@50 left out")


def test_a_class_absent_from_the_gallery_counts_zero_and_is_said():
    test = blobs(2, n=8, prefix="t")
    labels = test.labels.astype("U12")
    labels[:2] = "elsewhere"
    outcomes = score_head(Retrieval().fit(blobs(1)), FeatureSet(test.vectors, labels))
    assert outcomes.values["hit@50"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert "2 queries have no gallery sample" in outcomes.notes[0]


@pytest.mark.parametrize("wrong", [{"ks": ()}, {"ks": (0,)}, {"exclude": "nobody"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        Retrieval(**wrong)


def test_gallery_smaller_than_every_k():
    with pytest.raises(UsageError, match="all of"):
        Retrieval(ks=(50,)).fit(FeatureSet(np.eye(3), np.arange(3)))


PAPER = Retrieval(ks=(1, 5, 10, 20, 50), exclude="source")


def hits(outcomes):
    return [outcomes.score(name) for name in outcomes.values if name.startswith("hit@")]


def test_check_14_a_query_identical_to_a_gallery_item_hits_at_1():
    gallery = blobs(1, prefix="g")
    queries = FeatureSet(gallery.vectors[::3], gallery.labels[::3])
    assert score_head(PAPER.fit(gallery), queries).score("hit@1") == 1.0


def test_check_14_hits_grow_with_k_and_any_of_the_k_counts():
    gallery, queries = blobs(1, spread=4.0, prefix="g"), blobs(2, spread=4.0, prefix="q")
    outcomes = score_head(PAPER.fit(gallery), queries)
    assert hits(outcomes) == sorted(hits(outcomes))
    assert hits(outcomes)[0] < hits(outcomes)[1] < 1
    unit = [s.vectors / np.linalg.norm(s.vectors, axis=1, keepdims=True) for s in (queries, gallery)]
    order = np.argsort(-(unit[0] @ unit[1].T), axis=1)
    for k in PAPER.ks:
        slow = [(gallery.labels[row[:k]] == label).any() for row, label in zip(order, queries.labels, strict=True)]
        np.testing.assert_array_equal(outcomes.values[f"hit@{k}"], slow)


def test_check_14_neither_the_order_of_the_gallery_nor_the_scale_of_features_matters():
    # float64, so that no scale changes the order of what float32 cannot tell apart
    made = (blobs(1, prefix="g"), blobs(2, prefix="q"))
    gallery, queries = (FeatureSet(s.vectors.astype(np.float64), s.labels, s.groups, s.ids) for s in made)
    whole = score_head(PAPER.fit(gallery), queries)
    shuffled = gallery.select(np.random.default_rng(0).permutation(len(gallery)))
    scale = np.random.default_rng(1).uniform(0.1, 9, (80, 1))
    scaled = [FeatureSet(s.vectors * scale, s.labels, s.groups, s.ids) for s in (gallery, queries)]
    for other in (score_head(PAPER.fit(shuffled), queries), score_head(PAPER.fit(scaled[0]), scaled[1])):
        for name in whole.values:
            np.testing.assert_allclose(other.values[name], whole.values[name], err_msg=name)


def test_check_14_random_features_of_balanced_classes_hit_one_in_c():
    rng = np.random.default_rng(0)
    made = [FeatureSet(rng.normal(size=(1000, 8)), np.arange(1000) % 8) for _ in range(2)]
    outcomes = score_head(PAPER.fit(made[0]), made[1])
    assert outcomes.chance["hit@1"] == pytest.approx(1 / 8)
    for k in PAPER.ks:  # five standard deviations of a mean of 1000
        assert abs(outcomes.score(f"hit@{k}") - outcomes.chance[f"hit@{k}"]) < 5 * np.sqrt(0.25 / 1000)


def test_check_14_k_beyond_the_gallery():
    outcomes = score_head(PAPER.fit(blobs(1, n=15, prefix="g")), blobs(2, n=8, prefix="q"))
    assert [name for name in outcomes.values if name.startswith("hit")] == ["hit@1", "hit@5", "hit@10"]
    assert "hit@20, hit@50 left out: the gallery has 15 samples" in outcomes.notes[0]


def test_chance_of_any_hit_is_hypergeometric_in_each_querys_class():
    """1 − P(none of k drawn without replacement is of the class), weighted by how often queries ask for it."""
    labels = np.repeat(["a", "b", "c"], [50, 9, 1])
    gallery = FeatureSet(np.random.default_rng(0).normal(size=(60, 4)), labels)
    queries = FeatureSet(np.random.default_rng(1).normal(size=(5, 4)), np.array(["a", "b", "b", "c", "d"]))
    outcomes = score_head(PAPER.fit(gallery), queries)
    for k in PAPER.ks:
        each = [1 - hypergeom.pmf(0, 60, count, k) for count in (50, 9, 9, 1, 0)]
        assert outcomes.chance[f"hit@{k}"] == pytest.approx(np.mean(each))
