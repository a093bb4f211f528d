"""Bootstrap intervals: closed forms, coverage, groups, pairs, and the cases that must be refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

import unreel
from unreel.core.errors import UsageError
from unreel.stats import Interval, bootstrap_ci, exact_proportion_ci, paired_bootstrap


def normal(seed, n, loc=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(loc, scale, n)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_mean_of_many_normal_values_has_the_normal_interval(method, level):
    values = normal(1, 2000, 3.0, 2.0)
    interval = bootstrap_ci(values, method=method, level=level, num_resamples=4000)
    half = scipy_stats.norm.ppf((1 + level) / 2) * values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.08 * half)
    assert interval.level == level
    assert 3.0 in interval


def test_coverage_over_many_data_sets():
    hits = [0.0 in bootstrap_ci(normal(i, 60), num_resamples=400, seed=i) for i in range(400)]
    # Binomial(400, ≈0.94): 0.90 and 0.98 are more than three standard deviations away.
    assert 0.90 <= np.mean(hits) <= 0.98


def test_coverage_with_groups_holds_where_ungrouped_fails():
    grouped, ungrouped = [], []
    groups = np.repeat(np.arange(30), 10)
    for i in range(200):
        values = normal(i, 30)[groups] + 0.1 * normal(1000 + i, 300)
        grouped.append(0.0 in bootstrap_ci(values, groups=groups, num_resamples=300))
        ungrouped.append(0.0 in bootstrap_ci(values, num_resamples=300))
    assert np.mean(grouped) > 0.87
    assert np.mean(ungrouped) < 0.6


def test_groups_of_one_equal_no_groups():
    values = normal(3, 50)
    names = [f"patient {i:03d}" for i in range(50)]
    assert bootstrap_ci(values, groups=names) == bootstrap_ci(values)


def test_group_mean_is_weighted_by_samples_and_matches_a_slow_loop():
    rng = np.random.default_rng(4)
    groups = np.array([0] * 7 + [1] * 2 + [2] * 5 + [3])
    values = rng.normal(size=15)
    fast = bootstrap_ci(values, groups=groups, num_resamples=500)
    slow = bootstrap_ci(lambda index: float(np.mean(values[index])), groups=groups, num_resamples=500)
    assert fast.low == pytest.approx(slow.low, abs=1e-12)
    assert fast.high == pytest.approx(slow.high, abs=1e-12)
    fast_bca = bootstrap_ci(values, groups=groups, num_resamples=500, method="bca")
    slow_bca = bootstrap_ci(lambda i: float(np.mean(values[i])), groups=groups, num_resamples=500, method="bca")
    assert fast_bca.low == pytest.approx(slow_bca.low, abs=1e-9)
    assert fast_bca.high == pytest.approx(slow_bca.high, abs=1e-9)


@pytest.mark.parametrize("place", [0, 9])
def test_every_sample_is_drawn(place):
    """One of ten is in a resample with probability 0.65, the first and the last alike."""
    values = np.zeros(10)
    values[place] = 1
    assert bootstrap_ci(values).high >= 0.2
    assert bootstrap_ci(lambda i: float(np.mean(values[i])), n=10).high >= 0.2


def test_a_statistic_gets_whole_groups_only():
    groups = np.array(["b", "a", "b", "c", "a", "a"])
    seen = []

    def statistic(index):
        counts = np.bincount(index, minlength=6)
        for name in "abc":
            assert len(set(counts[groups == name])) == 1
        seen.append(sum(counts[[0, 1, 3]]))
        return float(index.mean())

    bootstrap_ci(statistic, groups=groups, num_resamples=100)
    assert set(seen) == {3}  # as many groups as there are


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_agrees_with_scipy(method):
    values = np.random.default_rng(5).exponential(size=80)
    ours = bootstrap_ci(values, method=method, num_resamples=8000)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=8000, method=method, rng=np.random.default_rng(0), vectorized=True
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_bca_shifts_towards_the_long_tail():
    values = np.random.default_rng(6).exponential(size=40)
    percentile, bca = bootstrap_ci(values), bootstrap_ci(values, method="bca")
    assert bca.high > percentile.high
    assert bca.low > percentile.low


def test_same_seed_same_interval_and_another_seed_another():
    values = normal(7, 100)
    assert bootstrap_ci(values, seed=1) == bootstrap_ci(values, seed=1)
    assert bootstrap_ci(values, seed=1) != bootstrap_ci(values, seed=2)


def test_chunks_do_not_change_the_numbers(monkeypatch):
    values = normal(8, 101)
    whole = bootstrap_ci(values)
    monkeypatch.setattr("unreel.stats.intervals._CHUNK_DRAWS", 5_000)
    assert bootstrap_ci(values) == whole


def test_constant_values_have_no_width():
    assert bootstrap_ci([0.3] * 7)[:2] == (0.3, 0.3)
    assert bootstrap_ci([0.3] * 7, method="bca")[:2] == (0.3, 0.3)


def test_level_orders_widths():
    values = normal(9, 100)
    widths = [bootstrap_ci(values, level=level).width for level in (0.5, 0.8, 0.95, 0.99)]
    assert widths == sorted(widths)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: bootstrap_ci([]), "n ≥ 1"),
        (lambda: bootstrap_ci([1.0]), "at least two samples"),
        (lambda: bootstrap_ci([1.0, 2.0], groups=["a", "a"]), "at least two groups, got 1"),
        (lambda: bootstrap_ci([1.0, 2.0], groups=["a"]), "one per sample"),
        (lambda: bootstrap_ci([1.0, np.nan, 2.0]), "first at index 1"),
        (lambda: bootstrap_ci([[1.0, 2.0]]), "shape"),
        (lambda: bootstrap_ci([1.0, 2.0], level=95), "level"),
        (lambda: bootstrap_ci([1.0, 2.0], num_resamples=10), "at least 40"),
        (lambda: bootstrap_ci([1.0, 2.0], method="studentized"), "method"),
        (lambda: bootstrap_ci(lambda i: 0.0), "needs n"),
        (lambda: bootstrap_ci([1.0, 2.0], n=3), "2 values"),
        (lambda: bootstrap_ci(lambda i: float("nan"), n=5, num_resamples=50), "not finite"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0]), "same samples"),
        (lambda: paired_bootstrap([1.0, 2.0], lambda i: 0.0), "not one of each"),
        (lambda: paired_bootstrap(lambda i: 0.0, lambda i: 0.0), "needs n"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, 2.0], groups=[0, 0]), "two groups"),
        (lambda: exact_proportion_ci(3, 2), "successes"),
        (lambda: exact_proportion_ci(1, 2, level=1.0), "level"),
    ],
)
def test_what_cannot_be_answered_is_refused(call, words):
    with pytest.raises(UsageError, match=words):
        call()


def test_paired_is_tighter_than_unpaired_on_correlated_outcomes():
    hard = normal(10, 200)
    a, b = hard + 0.1 * normal(11, 200) + 0.05, hard + 0.1 * normal(12, 200)
    paired = paired_bootstrap(a, b)
    assert paired.high - paired.low < 0.3 * (bootstrap_ci(a).width + bootstrap_ci(b).width)
    assert paired.difference == pytest.approx(float(np.mean(a - b)))
    assert paired.decided
    assert paired.p_value < 0.05
    assert (paired.n, paired.n_groups) == (200, 200)


def test_paired_sign_and_antisymmetry():
    a, b = normal(13, 80, 0.5), normal(14, 80)
    forward, backward = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert forward.difference > 0 > backward.difference
    assert forward.low == pytest.approx(-backward.high)
    assert forward.p_value == pytest.approx(backward.p_value)


def test_identical_outcomes_differ_by_nothing():
    a = (normal(15, 40) > 0).astype(float)
    result = paired_bootstrap(a, a)
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not result.decided


def test_p_value_is_uniform_enough_under_the_null():
    p_values = [paired_bootstrap(normal(i, 60), normal(5000 + i, 60), num_resamples=300).p_value for i in range(300)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.10
    assert 0.4 <= np.mean(p_values) <= 0.6


def test_p_value_agrees_with_the_interval_and_is_never_zero():
    result = paired_bootstrap(normal(16, 100, 5.0), normal(17, 100))
    assert result.p_value == pytest.approx(2 / 2001)


def test_paired_statistics_match_paired_values():
    a, b = normal(18, 30, 0.2), normal(19, 30)
    groups = np.arange(30) // 3
    by_value = paired_bootstrap(a, b, groups=groups)
    by_function = paired_bootstrap(lambda i: float(a[i].mean()), lambda i: float(b[i].mean()), groups=groups)
    assert by_function.low == pytest.approx(by_value.low, abs=1e-12)
    assert by_function.n_groups == by_value.n_groups == 10


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (3, 17)])
def test_exact_proportion_matches_scipy(successes, n):
    ours = exact_proportion_ci(successes, n)
    theirs = scipy_stats.binomtest(successes, n).proportion_ci(0.95, method="exact")
    assert ours == pytest.approx(Interval(theirs.low, theirs.high, 0.95))


@pytest.mark.parametrize("groups", [None, 40])
def test_no_loop_over_samples_or_resamples(groups):
    """How long it takes is in benchmarks/quick.py; here the lines of ours that run, which stay as few."""

    ours = str(Path(unreel.__file__).parent)

    def lines(n):
        count = 0

        def trace(frame, event, argument):
            nonlocal count
            if not frame.f_code.co_filename.startswith(ours):
                return None
            count += event == "line"
            return trace

        values = (normal(20, n) > 0).astype(float)
        old = sys.gettrace()
        sys.settrace(trace)
        try:
            bootstrap_ci(values, groups=None if groups is None else np.arange(n) % groups)
        finally:
            sys.settrace(old)
        return count

    few, many = lines(100), lines(10_000)
    assert few < 300
    assert many < few + 100
