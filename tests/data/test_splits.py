"""Splits: groups stay whole, shares come out, nothing moves when rows are added."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.data.splits import group_kfold, hash_split, hash_unit

THREE = {"train": 0.8, "val": 0.1, "test": 0.1}


def test_medical_normative_examples() -> None:
    """u = first 8 bytes of sha256(salt:id), big endian, / 2^64, salt usvid; 0.70 / 0.15 / 0.15."""
    expected = {"demo-1": 0.992530, "demo-2": 0.249243, "case-11": 0.294130, "patient0450": 0.052897}
    for name, unit in expected.items():
        assert hash_unit(name, "usvid") == pytest.approx(unit, abs=1e-6)
    shares = {"train": 0.70, "val": 0.15, "test": 0.15}
    assert hash_split(list(expected), shares, seed="usvid") == ["test", "train", "train", "train"]


@given(
    st.lists(st.text(max_size=6), min_size=1, max_size=40), st.lists(st.text(max_size=6), max_size=20), st.integers()
)
def test_added_rows_move_nobody(ids: list[str], more: list[str], seed: int) -> None:
    before = dict(zip(ids, hash_split(ids, THREE, seed=seed), strict=True))
    after = dict(zip(more + ids, hash_split(more + ids, THREE, seed=seed), strict=True))
    assert all(after[i] == before[i] for i in ids)


def test_shares_and_seeds() -> None:
    ids = [f"id{i}" for i in range(20000)]
    counts = Counter(hash_split(ids, THREE))
    for name, share in THREE.items():  # five standard errors of a binomial share
        assert counts[name] / 20000 == pytest.approx(share, abs=5 * np.sqrt(share * (1 - share) / 20000))
    one, two = (np.array(hash_split(ids, THREE, seed=s)) == "test" for s in (1, 2))
    assert (one & two).mean() == pytest.approx(0.01, abs=0.005)  # independent
    assert set(hash_split(ids, {"a": 0.0, "b": 1.0, "c": 0.0})) == {"b"}


@pytest.mark.parametrize("wrong", [{}, {"train": 0.8}, {"train": 1.2, "test": -0.2}, {"train": 0.6, "test": 0.6}])
def test_wrong_fractions(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="sum to 1"):
        hash_split(["a"], wrong)


def test_a_manifest_is_split_by_group_or_file() -> None:
    grouped = Manifest("/", tuple(Row(f"{i}.mp4", groups={"group": f"p{i % 7}"}) for i in range(70)))
    names = hash_split(grouped, THREE)
    assert all(
        len({n for n, r in zip(names, grouped, strict=True) if r.groups["group"] == f"p{g}"}) == 1 for g in range(7)
    )
    assert grouped.with_splits(names).splits
    spans = Manifest("/", tuple(Row(f"{i // 5}.mp4", float(i % 5), i % 5 + 1.0) for i in range(200)))
    by_file = hash_split(spans, THREE)
    assert all(len(set(by_file[i : i + 5])) == 1 for i in range(0, 200, 5))
    with pytest.raises(DataError):
        hash_split(spans, THREE, group="patient")


@given(st.lists(st.integers(0, 12), min_size=8, max_size=80), st.integers(2, 5))
def test_folds_keep_groups_whole(groups: list[int], k: int) -> None:
    names = [str(g) for g in groups]
    if len(set(names)) < k:
        with pytest.raises(UsageError, match="number of groups"):
            group_kfold(names, k)
        return
    folds = group_kfold(names, k)
    assert set(folds) == set(range(k))
    assert all(len({f for f, n in zip(folds, names, strict=True) if n == g}) == 1 for g in set(names))
    sizes = Counter(folds)
    assert max(sizes.values()) - min(sizes.values()) <= max(Counter(names).values())


def test_folds_follow_the_specified_order() -> None:
    """By (count descending, id), each to the fold with least clips, ties to the lowest fold."""
    groups = ["b"] * 3 + ["a"] * 3 + ["c"] * 2 + ["d"] * 2 + ["e"]
    folds = dict(zip(groups, group_kfold(groups, 2), strict=True))
    assert folds == {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0}


def test_folds_are_stratified_where_whole_groups_allow() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{i // 4}" for i in range(400)]
    labels = [["x", "y", "z"][c] for c in rng.choice(3, 100, p=[0.7, 0.2, 0.1]) for _ in range(4)]
    folds = np.array(group_kfold(groups, 5, labels=labels))
    for label in "xyz":
        counts = np.bincount(folds[np.array(labels) == label], minlength=5)
        assert counts.max() - counts.min() <= 4  # one group of four
    plain = np.array(group_kfold(groups, 5))
    assert np.bincount(plain).tolist() == [80] * 5


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    groups = [f"g{i % 9}" for i in range(60)]
    labels = ["xy"[i % 9 % 2] for i in range(60)]
    folds = dict(zip(groups, group_kfold(groups, 3, labels=labels), strict=True))
    order = np.random.default_rng(1).permutation(60)
    again = group_kfold([groups[i] for i in order], 3, labels=[labels[i] for i in order])
    assert all(folds[groups[i]] == f for i, f in zip(order, again, strict=True))


def test_folds_of_a_manifest() -> None:
    rows = tuple(Row(f"{i}", labels={"label": "xy"[i % 2]}, groups={"group": f"p{i // 2}"}) for i in range(12))
    manifest = Manifest("/", rows)
    folds = group_kfold(manifest, 3, labels="label")
    assert folds[::2] == folds[1::2]
    assert Counter(folds) == {0: 4, 1: 4, 2: 4}
    with pytest.raises(DataError, match="labels for"):
        group_kfold(["a", "b"], 2, labels=["x"])
    with pytest.raises(UsageError, match="manifest"):
        group_kfold(["a", "b"], 2, labels="label")
