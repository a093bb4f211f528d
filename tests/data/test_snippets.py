"""Snippets and orders (docs/methods/tcgl.md, Sampling)."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from tests.methods.numbered import source

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.contracts import Sampler
from unreel.data.snippets import SnippetSampler, clip_span, permutation_class, permutations, up_to_reversal


def test_check_3_order_classes() -> None:
    table = {(0, 1, 2): 0, (0, 2, 1): 1, (1, 0, 2): 2, (1, 2, 0): 3, (2, 0, 1): 4, (2, 1, 0): 5}
    for order, number in table.items():
        assert permutation_class(order) == number
        assert tuple(permutations(3)[number].tolist()) == order


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_classes_are_rows_of_the_lexicographic_table(n: int) -> None:
    table = permutations(n)
    assert table.shape == (math.factorial(n), n)
    assert table.tolist() == sorted(table.tolist()) == [list(p) for p in itertools.permutations(range(n))]
    assert [permutation_class(row) for row in table] == list(range(len(table)))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_check_3_reversal_relabels_chronology(n: int) -> None:
    """i → n − 1 − i, and not the tuple read backwards: classes 0/5, 1/4, 2/3 for three."""
    pairs = up_to_reversal(torch.arange(math.factorial(n)), n)
    for order, pair in zip(permutations(n), pairs, strict=True):
        assert pairs[permutation_class(n - 1 - order)] == pair
    assert torch.equal(torch.bincount(pairs), torch.full((math.factorial(n) // 2,), 2))


def test_refusals_say_what_was_found() -> None:
    for n in (0, 8):
        with pytest.raises(UsageError, match=f"got {n}"):
            permutations(n)
    for order in ([0, 0, 1], [1, 2, 3]):
        with pytest.raises(UsageError, match="permutation of 0"):
            permutation_class(order)
    with pytest.raises(UsageError, match="interval must be ≥ 0"):
        SnippetSampler(3, 16, -1)
    with pytest.raises(UsageError, match="must be ≥ 1"):
        clip_span(0)


def test_check_9_64_frames_force_the_starts_and_63_are_refused() -> None:
    sampler = SnippetSampler()
    assert isinstance(sampler, Sampler)
    assert sampler.min_frames == 64
    for seed in range(20):
        clips, targets = sampler.draw(Key(seed), source(64))
        for position, k in enumerate(targets["order"].tolist()):
            indices = clips[position].indices
            assert indices is not None
            assert indices.tolist() == list(range(24 * k, 24 * k + 16))
    with pytest.raises(ValueError, match="need 64 frames, the source has 63"):
        sampler.draw(Key(0), source(63))


def test_check_9_starts_and_orders_are_uniform_and_inside() -> None:
    sampler, length = SnippetSampler(), 70
    orders, starts = np.zeros(6, int), np.zeros(length - 63, int)
    for seed in range(1400):
        clips, targets = sampler.draw(Key(seed, "time"), source(length))
        every = np.concatenate([c.indices for c in clips if c.indices is not None])
        assert every.max() == every.min() + 63 < length
        starts[every.min()] += 1
        number = int(targets["order_class"])
        assert torch.equal(permutations(3)[number], targets["order"])
        orders[number] += 1
    # 6 standard deviations of a binomial: never by chance, and an off-by-one leaves a class empty.
    for counts in (orders, starts):
        expected = 1400 / len(counts)
        assert np.abs(counts - expected).max() < 6 * math.sqrt(expected)


def test_stride_interval_tile_and_chronology() -> None:
    sampler = SnippetSampler(2, 3, 4, stride=2, shuffle=False)
    assert sampler.min_frames == 5 + 4 + 5
    clips, targets = sampler.draw(Key(0), source(14))
    assert [list(c.indices) for c in clips if c.indices is not None] == [[0, 2, 4], [9, 11, 13]]
    assert targets["order"].tolist() == [0, 1]
    assert int(targets["order_class"]) == 0
    still = SnippetSampler(3, 4, 2, shuffle=False, tile=True)
    assert still.min_frames == 7
    clips, _ = still.draw(Key(0), source(7))
    assert [list(c.indices) for c in clips if c.indices is not None] == [[0] * 4, [3] * 4, [6] * 4]


def test_a_draw_is_a_function_of_key_and_length_also_elsewhere() -> None:
    sampler = SnippetSampler(4, 4, 2)
    twin = pickle.loads(pickle.dumps(sampler))
    assert repr(twin) == repr(sampler)
    one, two = sampler.draw(Key(3, 1), source(50)), twin.draw(Key(3, 1), source(50))
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(one.clips, two.clips, strict=True))
    assert torch.equal(one.targets["order"], two.targets["order"])
    assert one.targets["order"].dtype == one.targets["order_class"].dtype == torch.int64
