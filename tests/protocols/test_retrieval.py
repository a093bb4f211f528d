"""The retrieval protocol: the contract, the metric functions as oracle, exclusions."""

import numpy as np
import pytest

from tests.contracts.test_task import ProtocolContract, blobs
from unreel.core.errors import UsageError
from unreel.metrics.retrieval import hit_at_k, mean_average_precision
from unreel.protocols import FeatureSet, Retrieval


class TestRetrieval(ProtocolContract):
    protocol = Retrieval()


def test_scores_are_those_of_the_metric_functions():
    train, test = blobs(1, prefix="train"), blobs(2, prefix="test")
    outcomes = Retrieval().fit(train).score(test)
    args = (test.vectors, train.vectors, test.labels, train.labels)
    for k in (1, 5, 10, 20, 50):
        assert outcomes.score(f"hit@{k}") == pytest.approx(hit_at_k(*args, k))
    assert outcomes.score("mAP") == pytest.approx(mean_average_precision(*args))
    assert outcomes.primary == "hit@1"


def test_a_gallery_that_holds_the_queries_never_returns_them():
    samples = blobs(1)
    outcomes = Retrieval(exclude="source").fit(samples).score(samples)
    nearest = outcomes.gallery_ids[outcomes.neighbours.indices[:, 0]]
    assert (nearest != samples.ids).all()
    assert outcomes.score() < 1


def test_groups_are_excluded_by_default():
    samples = blobs(1)
    outcomes = Retrieval().fit(samples).score(samples)
    gallery_groups = dict(zip(samples.ids, samples.groups, strict=True))
    for row, group in zip(outcomes.neighbours.indices, samples.groups, strict=True):
        assert group not in {gallery_groups[i] for i in outcomes.gallery_ids[row[row >= 0]]}


def test_k_beyond_the_gallery_is_left_out_with_a_note():
    outcomes = Retrieval().fit(blobs(1, n=12)).score(blobs(2, n=8, prefix="t"))
    assert list(outcomes.values) == ["hit@1", "hit@5", "hit@10", "mAP"]
    assert outcomes.notes[0].startswith("hit@20, hit@50 left out")


def test_a_class_absent_from_the_gallery_counts_zero_and_is_said():
    test = blobs(2, n=8, prefix="t")
    labels = test.labels.astype("U12")
    labels[:2] = "elsewhere"
    outcomes = Retrieval().fit(blobs(1)).score(FeatureSet(test.vectors, labels))
    assert outcomes.values["hit@50"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]
    assert "2 queries have no gallery sample" in outcomes.notes[0]


@pytest.mark.parametrize("wrong", [{"ks": ()}, {"ks": (0,)}, {"exclude": "nobody"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        Retrieval(**wrong)


def test_gallery_smaller_than_every_k():
    with pytest.raises(UsageError, match="all of"):
        Retrieval(ks=(50,)).fit(FeatureSet(np.eye(3), np.arange(3)))
