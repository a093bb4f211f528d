"""Feature sets and the validation cut."""

import numpy as np
import pytest

from tests.contracts.test_task import blobs
from unreel.core.errors import DataError, UsageError
from unreel.protocols import FeatureSet
from unreel.protocols.protocol import encode, group_cut, training_parts


def test_cut_takes_whole_groups_of_every_class_and_empties_none():
    samples = blobs(0, n=200, groups=50)
    mask = group_cut(samples, fraction=0.2)
    assert mask is not None
    assert not set(samples.groups[mask]) & set(samples.groups[~mask])
    assert set(samples.labels[mask]) == set(samples.labels[~mask]) == set(samples.labels)
    assert 0.15 < mask.mean() < 0.35


def test_cut_follows_names_not_order():
    samples = blobs(0, n=60)
    order = np.random.default_rng(0).permutation(60)
    np.testing.assert_array_equal(group_cut(samples)[order], group_cut(samples.select(order)))
    assert (group_cut(samples, seed=0) != group_cut(samples, seed=1)).any()


def test_cut_never_takes_the_last_group_of_a_class():
    samples = FeatureSet(np.zeros((4, 1)), np.array(["a", "a", "b", "b"]), np.array(["p", "p", "q", "q"]))
    assert group_cut(samples) is None
    rare = FeatureSet(np.arange(11)[:, None], np.array(["a"] * 10 + ["b"]))
    mask = group_cut(rare)
    assert mask is not None
    assert mask.sum() == 2
    assert not mask[10]


def test_adding_groups_moves_no_others_key():
    few, more = blobs(0, n=40, groups=40), blobs(0, n=44, groups=44)
    more.groups[40:] = ["a0", "a1", "a2", "a3"]  # sorted before all others
    a, b = set(few.groups[group_cut(few)]), set(more.groups[group_cut(more)])
    assert len(a & b) >= len(a) - 3  # the quota may be met earlier, that is all


def test_features_are_checked():
    with pytest.raises(UsageError, match="one per sample"):
        FeatureSet(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(UsageError, match="twice"):
        FeatureSet(np.zeros((2, 2)), np.zeros(2), ids=np.array(["a", "a"]))
    with pytest.raises(UsageError, match="1 of 2 samples"):
        FeatureSet(np.array([[1.0], [np.inf]]), np.zeros(2))
    with pytest.raises(UsageError, match="none of them 0"):
        FeatureSet(np.zeros((0, 2)), np.zeros(0))


def test_mean_over_views():
    vectors = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    mean = FeatureSet(vectors, np.zeros(2)).mean_over_views()
    np.testing.assert_array_equal(mean.vectors, [[2, 3], [8, 9]])
    assert mean.mean_over_views() is mean


def test_one_class_is_refused():
    with pytest.raises(DataError, match="at least two classes"):
        training_parts(FeatureSet(np.eye(3), np.zeros(3)), None, fraction=0.2)


def test_encode_marks_what_training_never_showed():
    codes = encode(np.array(["b", "z", "a", ""]), np.array(["b", "a"]))
    assert codes.tolist() == [0, -1, 1, -1]
    with pytest.raises(UsageError, match="text in one part"):
        encode(np.array([1]), np.array(["1"]))
