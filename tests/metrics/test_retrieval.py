"""Retrieval metrics against slow loops and scikit-learn; ties, exclusions, blocks, chance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from unreel.core.errors import UsageError
from unreel.metrics import retrieval as r


def similarities(queries, gallery, kind):
    if kind == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    if kind == "euclidean":
        return -((queries[:, None] - gallery[None]) ** 2).sum(2)
    return queries @ gallery.T


def slow_ranking(queries, gallery, kind, excluded):
    table = similarities(queries.astype(np.float64), gallery.astype(np.float64), kind)
    return [
        sorted((j for j in range(len(gallery)) if not excluded[i, j]), key=lambda j, i=i: (-table[i, j], j))
        for i in range(len(queries))
    ]


def case(seed, q=13, g=37, d=4, integer=False):
    rng = np.random.default_rng(seed)
    if integer:  # exact products, many ties
        queries, gallery = rng.integers(-1, 2, (q, d)), rng.integers(-1, 2, (g, d))
    else:
        queries, gallery = rng.normal(size=(q, d)), rng.normal(size=(g, d))
    return queries.astype(np.float32), gallery.astype(np.float32), rng.integers(0, 4, q), rng.integers(0, 4, g)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.sampled_from(["dot", "euclidean", "cosine"]), st.booleans(), st.integers(1, 37))
def test_everything_equals_a_slow_loop(seed, kind, exclude, k):
    queries, gallery, ql, gl = case(seed, integer=kind != "cosine")
    rng = np.random.default_rng(seed + 1)
    ids, gallery_ids = rng.integers(0, 5, 13), rng.integers(0, 5, 37)
    options = {"query_ids": ids, "gallery_ids": gallery_ids} if exclude else {}
    excluded = (ids[:, None] == gallery_ids[None]) & exclude
    ranking = slow_ranking(queries, gallery, kind, excluded)
    found = r.nearest(queries, gallery, k=k, similarity=kind, **options)
    assert [[j for j in row if j >= 0] for row in found.indices.tolist()] == [row[:k] for row in ranking]
    relevant = [[gl[j] == ql[i] for j in row] for i, row in enumerate(ranking)]
    args = (queries, gallery, ql, gl)
    hit = np.mean([any(row[:k]) for row in relevant])
    assert r.hit_at_k(*args, k, similarity=kind, **options) == pytest.approx(hit)
    recall = np.mean([sum(row[:k]) / max(1, sum(row)) for row in relevant])
    assert r.recall_at_k(*args, k=k, similarity=kind, **options) == pytest.approx(recall)
    precisions = [
        np.mean([sum(row[: i + 1]) / (i + 1) for i, ok in enumerate(row) if ok]) if any(row) else 0.0
        for row in relevant
    ]
    assert r.mean_average_precision(*args, similarity=kind, **options) == pytest.approx(np.mean(precisions))


def test_average_precision_equals_scikit_learn():
    queries, gallery, ql, gl = case(5, q=20, g=300, d=16)
    table = similarities(queries, gallery, "cosine")
    oracle = np.mean([average_precision_score(gl == ql[i], table[i]) for i in range(20)])
    assert r.mean_average_precision(queries, gallery, ql, gl) == pytest.approx(oracle, abs=1e-6)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("k", [1, 7, 50])
def test_blocks_and_runs_do_not_change_the_answer(monkeypatch, integer, k):
    queries, gallery, _, _ = case(6, q=20, g=15_000, d=3, integer=integer)
    whole = r.nearest(queries, gallery, k=k, similarity="dot")
    table = torch.from_numpy(queries) @ torch.from_numpy(gallery).T
    slow = table.sort(dim=1, descending=True, stable=True)
    np.testing.assert_allclose(whole.similarities, slow.values[:, :k].numpy(), rtol=1e-6)
    if integer:
        np.testing.assert_array_equal(whole.indices, slow.indices[:, :k].numpy())
    monkeypatch.setattr(r, "_GALLERY_ROWS", 1_000)
    monkeypatch.setattr(r, "_QUERY_ROWS", 7)
    np.testing.assert_array_equal(r.nearest(queries, gallery, k=k, similarity="dot").indices, whole.indices)
    if not integer:
        np.testing.assert_array_equal(whole.indices, slow.indices[:, :k].numpy())


def test_the_best_run_is_searched_where_many_runs_tie():
    gallery = np.zeros((10_000, 1), np.float32)
    gallery[9_999] = gallery[5_000] = 2
    gallery[7_000] = 1
    found = r.nearest(np.ones((1, 1), np.float32), gallery, k=5, similarity="dot")
    assert found.indices.tolist() == [[5000, 9999, 7000, 0, 1]]


@pytest.mark.parametrize("k", [1, 2, 5])
def test_ties_between_runs_go_to_the_lower_row(k):
    """One value that counts in each run of 64 columns, of few distinct ones: ties across runs are the rule."""
    rng = np.random.default_rng(k)
    block = torch.full((200, 64 * 40 + 7), -100.0)
    for row in block:
        places = 64 * np.arange(40) + rng.integers(0, 64, 40)
        row[torch.from_numpy(places)] = torch.from_numpy(rng.integers(0, 12, 40).astype(np.float32))
    values, columns = r._top_k(block, k)
    slow = block.sort(dim=1, descending=True, stable=True)
    assert torch.equal(values, slow.values[:, :k])
    assert torch.equal(columns, slow.indices[:, :k])


def test_too_few_after_exclusion_says_so():
    found = r.nearest(np.eye(2), np.eye(2), k=2, query_ids=["a", "b"], gallery_ids=["a", "c"])
    assert found.indices.tolist() == [[1, -1], [1, 0]]
    assert found.similarities[0, 1] == -np.inf


def test_same_source_and_same_group_are_both_excluded():
    x = np.eye(4)[[0, 0, 0, 1]]
    found = r.nearest(
        x[:1], x, k=1, query_ids=[0], gallery_ids=[0, 1, 2, 3], query_groups=["p"], gallery_groups=["p", "p", "q", "q"]
    )
    assert found.indices.tolist() == [[2]]


def test_a_query_without_relevant_rows_counts_zero():
    args = (np.eye(2), np.eye(2), ["a", "z"], ["a", "b"])
    assert r.hit_at_k(*args, 2) == 0.5
    assert r.recall_at_k(*args, 2) == 0.5
    assert r.mean_average_precision(*args) == 0.5


def test_worked_average_precision():
    # Ranks 1, 3, 4 of 5 relevant: (1 + 2/3 + 3/4) / 3.
    gallery = np.array([[5.0], [4], [3], [2], [1]])
    value = r.mean_average_precision([[1.0]], gallery, [1], [1, 0, 1, 1, 0], similarity="dot")
    assert value == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert r.recall_at_k([[1.0]], gallery, [1], [1, 0, 1, 1, 0], 3, similarity="dot") == pytest.approx(2 / 3)


def test_permuting_and_renaming_leave_scores():
    queries, gallery, ql, gl = case(8)
    rng = np.random.default_rng(0)
    p, s, names = rng.permutation(13), rng.permutation(37), np.array(["w", "a", "x", "b"])
    for metric in (r.hit_at_k, r.recall_at_k, r.mean_average_precision):
        base = metric(queries, gallery, ql, gl)
        assert metric(queries[p], gallery[s], names[ql[p]], names[gl[s]]) == pytest.approx(base)
    assert r.hit_at_k(3 * queries, 0.1 * gallery, ql, gl) == r.hit_at_k(queries, gallery, ql, gl)


def test_float64_is_kept_and_tensors_are_taken():
    queries, gallery, ql, gl = case(9)
    a = r.mean_average_precision(torch.from_numpy(queries).double(), gallery, torch.from_numpy(ql), gl.tolist())
    assert a == pytest.approx(r.mean_average_precision(queries, gallery, ql, gl))


def test_chance_is_the_mean_over_random_orders():
    rng = np.random.default_rng(10)
    relevant, candidates = np.array([1, 3, 0, 6]), np.array([8, 10, 10, 6])
    hits, precisions = [], []
    for _ in range(4000):
        for count, total in zip(relevant, candidates, strict=True):
            row = rng.permutation(total) < count
            hits.append(row[:3].any())
            at = np.flatnonzero(row)
            precisions.append(np.mean((np.arange(len(at)) + 1) / (at + 1)) if len(at) else 0.0)
    assert r.chance_hit_at_k(relevant, candidates, 3) == pytest.approx(np.mean(hits), abs=0.01)
    assert r.chance_average_precision(relevant, candidates) == pytest.approx(np.mean(precisions), abs=0.01)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: r.nearest(np.zeros((0, 2)), np.eye(2), k=1), "n ≥ 1"),
        (lambda: r.nearest(np.eye(2), np.eye(3), k=1), "same encoder"),
        (lambda: r.nearest(np.eye(2), np.eye(2), k=3), "expected 1 to 2 .*gallery.*, got 3"),
        (lambda: r.nearest(np.eye(2), np.eye(2), k=0), "expected 1 to 2"),
        (lambda: r.nearest(np.full((1, 2), np.nan), np.eye(2), k=1), "not finite"),
        (lambda: r.nearest(np.eye(2), np.eye(2), k=1, query_ids=[0, 1]), "both query_ids and gallery_ids"),
        (lambda: r.nearest(np.eye(2), np.eye(2), k=1, similarity="l1"), "similarity"),
        (lambda: r.hit_at_k(np.eye(2), np.eye(2), [0], [0, 1]), "query_labels"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(UsageError, match=words):
        call()
