import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from unreel.core.keys import Key, uniforms

PARTS = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=6), max_size=4)


@given(PARTS, PARTS)
def test_equal_addresses_and_only_those_draw_alike(a, b):
    first, second = Key(*a), Key(*b)
    alike = len(a) == len(b) and all(type(x) is type(y) and x == y for x, y in zip(a, b, strict=True))
    assert (first.bits() == second.bits()) == alike
    assert (first == second) == alike
    assert (hash(first) == hash(second)) == alike


def test_parts_cannot_run_into_each_other():
    keys = [
        Key("ab", "c"),
        Key("a", "bc"),
        Key("abc"),
        Key(1),
        Key("1"),
        Key(1, 1),
        Key(11),
        Key("", "a"),
        Key("a", ""),
    ]
    assert len({k.bits() for k in keys}) == len(keys)
    assert Key(True) == Key(1)  # a bool is an integer here, as everywhere in Python
    assert Key(np.int64(7)) == Key(7)


@given(PARTS, PARTS)
def test_child_is_the_longer_address(a, b):
    assert Key(*a).child(*b) == Key(*a, *b)


def test_draws_are_pure():
    key = Key(3, "view", 1)
    before = (key.bits(), key.uniform(), key.numpy().random(3).tolist(), torch.rand(3, generator=key.torch()).tolist())
    key.child("other").uniform()
    assert key.permutation(9).tolist() == key.permutation(9).tolist()
    again = Key(3, "view", 1)
    after = (
        again.bits(),
        again.uniform(),
        again.numpy().random(3).tolist(),
        torch.rand(3, generator=again.torch()).tolist(),
    )
    assert before == after
    assert pickle.loads(pickle.dumps(key)) == key
    assert Key(3) != 3


def test_draws_never_change():
    """Golden values: a run made with this release is made again by every later one, on every machine."""
    key = Key(0, 5, 123456789, "shared", "crop", 0)
    assert key.bits() == 3197236585495687683
    assert key.uniform() == 0.346645085194456
    assert key.permutation(8).tolist() == [2, 4, 6, 0, 1, 3, 5, 7]


def test_global_generators_are_left_alone():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    key = Key(2)
    key.uniform(), key.permutation(5), torch.rand(2, generator=key.torch()), key.numpy().random()
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numbers, np.random.get_state()[1])  # noqa: NPY002


def test_uniform_is_uniform_and_children_are_independent():
    pairs = np.array([[Key(0, i).child("a").uniform(), Key(0, i).child("b").uniform()] for i in range(5000)])
    for column in pairs.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.05
    neighbours = pairs[:, 0]
    assert abs(np.corrcoef(neighbours[1:], neighbours[:-1])[0, 1]) < 0.05
    values = np.array([Key(1, i).uniform(-2.0, 6.0) for i in range(2000)])
    assert values.min() >= -2
    assert values.max() < 6
    assert stats.kstest(values, stats.uniform(-2, 8).cdf).pvalue > 1e-3


def test_integer_covers_its_range_evenly():
    values = np.array([Key(4, i).integer(-3, 4) for i in range(7000)])
    counts = np.bincount(values + 3)
    assert counts.shape == (7,)
    assert stats.chisquare(counts).pvalue > 1e-3
    assert Key(0).integer(5, 6) == 5
    for low, high in ((3, 3), (4, 3)):
        with pytest.raises(ValueError, match="low < high"):
            Key(0).integer(low, high)


def test_bernoulli():
    draws = [Key(5, i).bernoulli(0.2) for i in range(5000)]
    assert stats.binomtest(sum(draws), 5000, 0.2).pvalue > 1e-3
    assert not any(Key(5, i).bernoulli(0) for i in range(200))
    assert all(Key(5, i).bernoulli(1) for i in range(200))


def test_permutations_are_uniform():
    counts: dict[tuple[int, ...], int] = {}
    for i in range(6000):
        order = tuple(Key(6, i).permutation(3).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert Key(0).permutation(0).tolist() == []
    assert sorted(Key(0).permutation(100).tolist()) == list(range(100))
    assert Key(0).permutation(5).dtype == np.int64


def test_bits_fit_a_signed_integer():
    bits = [Key(7, i).bits() for i in range(500)]
    assert all(0 <= b < 2**63 for b in bits)
    assert any(b >= 2**62 for b in bits)
    torch.tensor(bits, dtype=torch.int64)


def test_repr_is_the_address():
    key = Key(1, "a", 2)
    assert repr(key) == "Key(1, 'a', 2)"
    assert eval(repr(key)) == key


def test_uniforms_belong_to_the_sample() -> None:
    key, ids = Key(3, "dropout"), torch.tensor([5, -7, 2**62, 5])
    draws = uniforms(key, ids, 4, 3)
    assert draws.shape == (4, 4, 3)
    assert torch.equal(draws[0], draws[3])
    assert torch.equal(uniforms(key, ids[1:3], 4, 3), draws[1:3])
    assert not torch.equal(uniforms(key.child("other"), ids, 4, 3), draws)
    assert not torch.equal(uniforms(Key(4, "dropout"), ids, 4, 3), draws)


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(Key(0), torch.arange(2000), 50).double()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, 20, 0, 1)
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 45  # chi square with 19 degrees, p about 0.0007
    for a, b in ((draws[:-1, 0], draws[1:, 0]), (draws[:, :-1].flatten(), draws[:, 1:].flatten())):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.08


def test_a_child_is_the_address_written_out_and_travels() -> None:
    below = Key("a", 1).child("bc", 2).child("d")
    assert below.bits() == Key("a", 1, "bc", 2, "d").bits() != Key("a", 1, "bc", 2).bits()
    above = Key(7)
    assert above.child("x").bits() != above.child("y").bits()  # the parent's hash is not used up
    assert pickle.loads(pickle.dumps(below)) == below == copy.deepcopy(below)
