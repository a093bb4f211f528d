"""How sure a number is: bootstrap intervals that resample whole groups, and paired differences.

Samples of one patient, scene or source video are not independent, so an interval over samples is too narrow. Given
``groups``, whole groups are resampled (the cluster bootstrap; Davison and Hinkley 1997, §3.8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy_stats

from unreel.core.checks import Count, Fraction, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key

Statistic: TypeAlias = Callable[[NDArray[np.int64]], float]
"""A number computed from the samples at the given indices (with repeats): (m,) int64 → float."""

Method: TypeAlias = Literal["percentile", "bca"]

# Draws held in memory at once: 4 million int32 indices and their values are 48 MB.
_CHUNK_DRAWS = 4_000_000
_TIE = 1e-12


class Interval(NamedTuple):
    """A confidence interval: ``low`` ≤ ``high`` at confidence ``level`` (0.95 is 95 %)."""

    low: float
    high: float
    level: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    @property
    def width(self) -> float:
        return self.high - self.low


@dataclass(frozen=True)
class PairedDifference:
    """How much better ``a`` is than ``b`` on the same samples.

    ``difference`` is a − b; ``low`` and ``high`` bound it at ``level``; ``p_value`` is the two-sided bootstrap
    probability of a difference of the other sign, 2·min(P(d* ≤ 0), P(d* ≥ 0)), counted with one added to numerator
    and denominator so that it is never 0 (Davison and Hinkley 1997, eq. 4.11); ``n`` samples in ``n_groups`` groups.
    """

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    n_groups: int
    level: float = 0.95

    @property
    def decided(self) -> bool:
        """True when the interval leaves out zero."""
        return self.low > 0 or self.high < 0


class _Groups:
    """Samples sorted by group, so that a resample of groups is a gather."""

    def __init__(self, n: int, groups: Sequence[object] | ArrayLike | None) -> None:
        self.n = n
        names = np.arange(n) if groups is None else np.asarray(groups)
        if names.shape != (n,):
            raise UsageError(f"groups: expected one per sample, shape ({n},), got {names.shape}")
        unique, codes = np.unique(names.astype(str) if names.dtype == object else names, return_inverse=True)
        self.codes, self.num_groups = codes.astype(np.int64), len(unique)
        if self.num_groups < 2:
            what = "sample" if groups is None else "group"
            raise UsageError(
                f"a bootstrap needs at least two {what}s, got {self.num_groups} ({n} samples): "
                "resampling one unit says nothing about its spread"
            )
        self.sizes = np.bincount(self.codes, minlength=self.num_groups)
        self.members = np.argsort(self.codes, kind="stable").astype(np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def indices(self, chosen: NDArray[np.integer]) -> NDArray[np.int64]:
        """The samples of the chosen groups, repeats included."""
        sizes = self.sizes[chosen]
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        members: NDArray[np.int64] = self.members[np.repeat(self.offsets[chosen], sizes) + within]
        return members


def _check(level: float, num_resamples: int) -> None:
    # Fewer than 1 / ((1 − level) / 2) resamples cannot have a value beyond the quantile asked for.
    if num_resamples * (1 - level) / 2 < 1:
        raise UsageError(
            f"num_resamples: {num_resamples} cannot resolve the {(1 - level) / 2:.3g} quantile of a "
            f"{level:.0%} interval; use at least {int(np.ceil(2 / (1 - level)))} (2000 is usual)"
        )


def _values(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UsageError(f"{name}: expected per-sample numbers of shape (n,) with n ≥ 1, got shape {array.shape}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise UsageError(f"{name}: {bad.size} of {array.size} are not finite, the first at index {bad[0]}")
    return array


def _source(
    values: ArrayLike | Statistic, n: int | None, groups: Sequence[object] | ArrayLike | None, name: str
) -> tuple[NDArray[np.float64] | Statistic, int]:
    """What is resampled, and the number of samples."""
    if not callable(values):
        array = _values(values, name)
        if n is not None and n != len(array) and name == "values":
            raise UsageError(f"n: {n} given, but there are {len(array)} values")
        return array, len(array)
    if n is None and groups is None:
        raise UsageError("a statistic of indices needs n (the number of samples) or groups (one per sample)")
    return values, len(np.asarray(groups)) if n is None else n


def _draws(rng: np.random.Generator, num_groups: int, num_resamples: int) -> Iterator[NDArray[np.int32]]:
    """Resamples of groups, (r, num_groups) at a time; the chunk size does not change the numbers."""
    rows = max(1, _CHUNK_DRAWS // num_groups)
    for start in range(0, num_resamples, rows):
        yield rng.integers(0, num_groups, size=(min(rows, num_resamples - start), num_groups), dtype=np.int32)


class _Bootstrap(NamedTuple):
    estimate: float
    resamples: NDArray[np.float64]
    jackknife: NDArray[np.float64] | None


def _bootstrap_mean(
    values: NDArray[np.float64], groups: _Groups, rng: np.random.Generator, num_resamples: int, jackknife: bool
) -> _Bootstrap:
    """The mean over samples, resampled by groups: sums and sizes of groups are all that is needed."""
    # Centred first: a constant then resamples to itself exactly, whatever the rounding of the sums.
    centre = float(values.mean())
    sums = np.bincount(groups.codes, weights=values - centre, minlength=groups.num_groups)
    sizes = groups.sizes.astype(np.float64)
    equal = bool(np.all(groups.sizes == groups.sizes[0]))
    means: list[NDArray[np.float64]] = []
    for chosen in _draws(rng, groups.num_groups, num_resamples):
        total = sizes[0] * groups.num_groups if equal else sizes[chosen].sum(1)
        means.append(sums[chosen].sum(1) / total)
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes) + centre if jackknife else None
    return _Bootstrap(centre, np.concatenate(means) + centre, left_out)


def _bootstrap_statistic(
    statistic: Statistic, groups: _Groups, rng: np.random.Generator, num_resamples: int, jackknife: bool
) -> _Bootstrap:
    estimate = float(statistic(np.arange(groups.n, dtype=np.int64)))
    resamples = np.array(
        [
            float(statistic(groups.indices(chosen)))
            for block in _draws(rng, groups.num_groups, num_resamples)
            for chosen in block
        ]
    )
    if not np.isfinite(estimate) or not np.all(np.isfinite(resamples)):
        bad = int((~np.isfinite(resamples)).sum())
        raise UsageError(
            f"statistic: {estimate} on all samples and not finite on {bad} of {num_resamples} resamples; "
            "it must be defined for every resample of groups"
        )
    left_out = None
    if jackknife:
        everyone = np.arange(groups.num_groups)
        left_out = np.array([float(statistic(groups.indices(np.delete(everyone, g)))) for g in everyone])
    return _Bootstrap(estimate, resamples, left_out)


def _interval(result: _Bootstrap, level: float) -> tuple[float, float]:
    """Percentile interval, or BCa (Efron 1987) when the jackknife values are there."""
    tails = np.array([(1 - level) / 2, (1 + level) / 2])
    if result.jackknife is not None:
        below = np.mean(result.resamples < result.estimate) + 0.5 * np.mean(result.resamples == result.estimate)
        deviations = result.jackknife.mean() - result.jackknife
        spread = float((deviations**2).sum())
        if 0 < below < 1 and spread > 0:
            bias = _scipy_stats.norm.ppf(below)
            acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
            z = bias + _scipy_stats.norm.ppf(tails)
            tails = _scipy_stats.norm.cdf(bias + z / (1 - acceleration * z))
    low, high = np.quantile(result.resamples, tails)
    return float(low), float(high)


def _run(
    source: NDArray[np.float64] | Statistic, groups: _Groups, seed: int, num_resamples: int, method: str
) -> _Bootstrap:
    rng = Key(seed, "bootstrap").numpy()
    if callable(source):
        return _bootstrap_statistic(source, groups, rng, num_resamples, method == "bca")
    return _bootstrap_mean(source, groups, rng, num_resamples, method == "bca")


@checked
def bootstrap_ci(
    values_or_statistic: ArrayLike | Statistic,
    *,
    n: int | None = None,
    groups: Sequence[object] | ArrayLike | None = None,
    num_resamples: int = 2000,
    level: Fraction = 0.95,
    seed: int = 0,
    method: Method = "percentile",
) -> Interval:
    """Bootstrap confidence interval of a mean over samples, or of any statistic of a set of samples.

    Args:
        values_or_statistic: per-sample numbers (n,), whose mean is the score; or a function from sample indices
            (m,) int64, repeats included, to a number (macro F1, a correlation).
        n: number of samples, for a function without ``groups``.
        groups: one name per sample; whole groups are resampled. ``None``: every sample is its own group.
        num_resamples: 2000 puts the Monte-Carlo error of a 95 % bound near a twentieth of the interval's width.
        method: ``percentile``; or ``bca``, second-order correct for skewed statistics (Efron 1987), which costs one
            more evaluation per group for a function.
    Returns: the interval. Values that are all equal give one of width 0: for shares of 0 or 1 use
        ``exact_proportion_ci``.
    Raises: UsageError for no samples, fewer than two groups, numbers that are not finite, a level outside (0, 1), or
        too few resamples for the level.
    """
    _check(level, num_resamples)
    source, n = _source(values_or_statistic, n, groups, "values")
    result = _run(source, _Groups(n, groups), seed, num_resamples, method)
    return Interval(*_interval(result, level), level)


@checked
def paired_bootstrap(
    a: ArrayLike | Statistic,
    b: ArrayLike | Statistic,
    *,
    n: int | None = None,
    groups: Sequence[object] | ArrayLike | None = None,
    num_resamples: int = 2000,
    level: Fraction = 0.95,
    seed: int = 0,
    method: Method = "percentile",
) -> PairedDifference:
    """Difference a − b of two scores on the same samples, with both resampled together.

    Args:
        a, b: per-sample outcomes (n,) in the same order, or two functions of sample indices (as ``bootstrap_ci``).
        groups, n, num_resamples, level, seed, method: as ``bootstrap_ci``.
    Raises: UsageError as ``bootstrap_ci``, and when ``a`` and ``b`` differ in length or in kind.
    """
    _check(level, num_resamples)
    if callable(a) != callable(b):
        raise UsageError("paired_bootstrap compares two arrays of outcomes or two functions, not one of each")
    (first, n), (second, other) = _source(a, n, groups, "a"), _source(b, n, groups, "b")
    if other != n:
        raise UsageError(f"paired outcomes must come from the same samples: a has {n}, b {other}")
    source: NDArray[np.float64] | Statistic
    if callable(first) and callable(second):
        statistics = first, second

        def source(indices: NDArray[np.int64]) -> float:
            return float(statistics[0](indices)) - float(statistics[1](indices))

    else:
        assert not callable(first)
        assert not callable(second)
        source = first - second
    units = _Groups(n, groups)
    result = _run(source, units, seed, num_resamples, method)
    low, high = _interval(result, level)
    # Shares of a few samples tie with zero often; rounding must not decide on which side such a tie falls.
    at_most = (int((result.resamples <= _TIE).sum()) + 1) / (num_resamples + 1)
    at_least = (int((result.resamples >= -_TIE).sum()) + 1) / (num_resamples + 1)
    p_value = min(1.0, 2 * min(at_most, at_least))
    return PairedDifference(result.estimate, low, high, p_value, n, units.num_groups, level)


@checked
def exact_proportion_ci(successes: int, n: Count, *, level: Fraction = 0.95) -> Interval:
    """Exact interval of a share of independent trials (Clopper and Pearson 1934).

    Keeps its width where the bootstrap has none: 10 right of 10 gives [0.69, 1].
    Raises: UsageError unless 0 ≤ successes ≤ n, n ≥ 1 and 0 < level < 1.
    """
    if not 0 <= successes <= n:
        raise UsageError(f"expected 0 ≤ successes ≤ n, got {successes} of {n}")
    found = _scipy_stats.binomtest(successes, n).proportion_ci(level, method="exact")
    return Interval(float(found.low), float(found.high), level)
