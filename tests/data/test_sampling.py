import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.contracts import Sampler, SourceInfo
from unreel.data.sampling import (
    ClipPlan,
    ClipSetSampler,
    IntervalDistribution,
    PairSampler,
    UniformSampler,
    clip_indices,
    clip_starts,
    num_starts,
)
from unreel.media import VideoInfo

M = 220  # valid starts of 16 frames at stride 2 in 250 frames
DRAWS = 100_000


def source(num_frames: int) -> SourceInfo:
    video = VideoInfo(32, 24, num_frames, num_frames / 25, 25.0, "test")
    return SourceInfo(video, num_frames, num_frames / 25)


def uniforms(count: int = DRAWS, seed: int = 0) -> np.ndarray:
    return Key(seed, "test").numpy().random(count)


def moments(kind: str, power: float = 1.0) -> tuple[float, float]:
    pmf = IntervalDistribution(kind, power).pmf(M).numpy()
    k = np.arange(M)
    mean = float((pmf * k).sum())
    return mean, math.sqrt(float((pmf * (k - mean) ** 2).sum()))


ALL = [
    IntervalDistribution("decreasing"),
    IntervalDistribution("decreasing", 0.5),
    IntervalDistribution("decreasing", 2),
    IntervalDistribution("decreasing", 3.7),
    IntervalDistribution("uniform"),
    IntervalDistribution("increasing"),
    IntervalDistribution("increasing", 2),
    IntervalDistribution("none"),
    IntervalDistribution("independent"),
    IntervalDistribution("fixed", frames=40),
    IntervalDistribution("exponential", scale=0.1),
]


# ------------------------------------------------------------------------------------------------- distributions


def test_check_13_interval_moments():
    pmf = IntervalDistribution("decreasing").pmf(M).numpy()
    assert pmf[0] == pytest.approx(0.0090702, abs=5e-8)
    assert pmf[:31].sum() == pytest.approx(0.26196, abs=5e-6)
    expected = {
        ("decreasing", 1.0): (72.834, 51.854),
        ("decreasing", 0.5): (65.501, 50.579),
        ("decreasing", 2.0): (82.001, 53.607),
        ("uniform", 1.0): (109.5, 63.508),
        ("increasing", 1.0): (146.166, 51.854),
    }
    for (kind, power), values in expected.items():
        assert moments(kind, power) == pytest.approx(values, abs=5e-4)


def test_check_13_mean_of_the_earlier_start_and_uniform_pooled_starts():
    pmf = IntervalDistribution("decreasing").pmf(M).numpy()
    k = np.arange(M)
    assert float((pmf * (M - k - 1) / 2).sum()) == pytest.approx(73.083, abs=5e-4)
    # The starts of both clips pooled: for the linear density uniform on [0, M) to within discretisation.
    pooled = np.zeros(M)
    for delta in range(M):
        share = pmf[delta] / (M - delta) / 2
        pooled[: M - delta] += share
        pooled[delta:] += share
    assert np.abs(pooled * M - 1).max() < 0.01


@pytest.mark.parametrize("distribution", ALL[:7], ids=repr)
def test_check_13_interval_statistics(distribution):
    """Chi-square over 20 equal bins with 1e5 draws, against the continuous density of each kind."""
    drawn = distribution.intervals(uniforms(), M)
    counts, _ = np.histogram(drawn, bins=20, range=(0, M))
    edges = np.linspace(0, M, 21)
    expected = np.diff(distribution.cdf(edges, M)) * DRAWS
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    pmf = distribution.pmf(M).numpy()
    mean = float((pmf * np.arange(M)).sum())
    assert drawn.mean() == pytest.approx(mean, abs=5 * drawn.std() / math.sqrt(DRAWS))


@pytest.mark.parametrize(
    ("power", "closed_form"),
    [
        (1.0, lambda u: 1 - math.sqrt(1 - u)),
        (0.5, lambda u: (0.5 - math.sin(math.asin(1 - 2 * u) / 3)) ** 2),
        (2.0, lambda u: 2 * math.sin(math.asin(u) / 3)),
    ],
)
def test_check_14_inverse_cdf(power, closed_form):
    distribution = IntervalDistribution("decreasing", power)
    assert closed_form(0.5) == pytest.approx({1.0: 0.292893, 0.5: 0.25, 2.0: 0.347296}[power], abs=5e-7)
    for u in np.linspace(0, 1, 41):
        assert distribution.cdf(closed_form(float(u)) * M, M) == pytest.approx(u, abs=1e-7)


def test_check_14_increasing_and_uniform_inverse_cdf():
    for u in (0.0, 0.2, 0.9, 1.0):
        assert IntervalDistribution("uniform").cdf(u * M, M) == pytest.approx(u)
        assert IntervalDistribution("increasing").cdf(math.sqrt(u) * M, M) == pytest.approx(u)
        assert IntervalDistribution("increasing", 2).cdf(u ** (1 / 3) * M, M) == pytest.approx(u)
        assert IntervalDistribution("increasing", 0.5).cdf(u ** (2 / 3) * M, M) == pytest.approx(u)


def test_check_14_integer_intervals():
    distribution = IntervalDistribution("decreasing")
    assert [distribution.interval(u, M) for u in (0.1, 0.3333, 0.9, 0.99)] == [11, 40, 150, 198]


@pytest.mark.parametrize("distribution", ALL, ids=repr)
@pytest.mark.parametrize("m", [1, 2, 7, 220])
def test_interval_is_the_largest_with_cdf_below_u(distribution, m):
    pmf = distribution.pmf(m).numpy()
    assert pmf.shape == (m,)
    assert (pmf >= 0).all()
    assert pmf.sum() == pytest.approx(1)
    u = uniforms(200, seed=m)
    slow = []
    for value in u:
        k = 0
        while k + 1 <= m - 1 and float(distribution.cdf(k + 1, m)) <= value:
            k += 1
        slow.append(k)
    assert [distribution.interval(float(v), m) for v in u] == slow
    assert distribution.intervals(u, m).tolist() == slow
    # Where P(δ = k) is F(k + 1) − F(k), a draw just below F(k + 1) gives k.
    assert distribution.interval(0.0, m) == int(np.flatnonzero(pmf)[0])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 5000), st.sampled_from(ALL))
@settings(max_examples=200, deadline=None)
def test_interval_is_a_floor_of_the_inverse(u, m, distribution):
    k = distribution.interval(u, m)
    assert 0 <= k < m
    assert float(distribution.cdf(k, m)) <= u or k == 0
    assert float(distribution.cdf(k + 1, m)) > u


def test_independent_is_two_independent_starts():
    starts = np.indices((60, 60)).reshape(2, -1)
    exact = np.bincount(np.abs(starts[0] - starts[1]), minlength=60) / 3600
    np.testing.assert_allclose(IntervalDistribution("independent").pmf(60).numpy(), exact, atol=1e-12)
    # … and close to the linear density, as the paper's identity says: 2(M − k) − 1 against 2(M − k), over M².
    linear = IntervalDistribution("decreasing").pmf(60).numpy()
    np.testing.assert_allclose(linear, (2 * (60 - np.arange(60)) - 1) / 3600, atol=1e-12)


def test_distribution_refuses():
    with pytest.raises(UsageError, match="did you mean 'decreasing'"):
        IntervalDistribution("decreasingly")
    with pytest.raises(UsageError, match="power must be > 0, got"):
        IntervalDistribution("decreasing", 0)
    with pytest.raises(UsageError, match=r"\[0, 1\)"):
        IntervalDistribution("uniform").interval(1.0, 5)
    with pytest.raises(UsageError, match="num_starts must be ≥ 1"):
        IntervalDistribution("uniform").interval(0.5, 0)


# ------------------------------------------------------------------------------------------------------ samplers


def test_samplers_satisfy_the_contract():
    assert isinstance(PairSampler(), Sampler)
    assert isinstance(UniformSampler(3), Sampler)
    assert len(UniformSampler(3).draw(Key(0), source(50)).clips) == 3


def test_pair_sampler_draws_the_distribution():
    """The keyed draw, end to end: intervals and order of 4,000 pairs against the exact law."""
    sampler = PairSampler()
    starts = np.array([sampler.starts(Key(3, i), 250) for i in range(4000)])
    counts, _ = np.histogram(np.abs(starts[:, 0] - starts[:, 1]), bins=10, range=(0, M))
    expected = np.diff(IntervalDistribution("decreasing").cdf(np.linspace(0, M, 11), M)) * 4000
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    earlier = starts.min(1)
    assert earlier.mean() == pytest.approx(73.083, abs=5 * earlier.std() / math.sqrt(4000))


def test_start_is_uniform_given_the_interval():
    sampler = PairSampler(interval="fixed", fixed_frames=100, swap=False)
    starts = np.array([sampler.starts(Key(8, i), 250) for i in range(6000)])
    assert (starts[:, 1] - starts[:, 0] == 100).all()
    counts = np.bincount(starts[:, 0], minlength=120)
    assert counts.shape == (120,)  # [0, M − δ)
    assert stats.chisquare(counts).pvalue > 1e-3


@given(st.integers(1, 400), st.integers(1, 20), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_check_15_starts_and_frames_stay_inside(length, frames, stride, seed):
    sampler = PairSampler(frames, stride)
    draw = sampler.draw(Key(seed), source(length))
    starts = sampler.starts(Key(seed), length)
    m = num_starts(length, frames, stride)
    for clip, start in zip(draw.clips, starts, strict=True):
        assert 0 <= start <= m - 1
        assert clip.indices.shape == (frames,)
        assert clip.indices[0] == start
        assert clip.indices.min() >= 0
        assert clip.indices.max() <= length - 1
        if length > (frames - 1) * stride:
            assert (np.diff(clip.indices) == stride).all()
    assert int(draw.targets["interval"]) == starts[1] - starts[0]


def test_check_15_exact_fit_and_loop():
    assert num_starts(250, 16, 2) == M
    for seed in range(50):
        assert PairSampler().starts(Key(seed), 31) == (0, 0)
    assert clip_indices(5, 20, 16, 2).tolist() == [5, 7, 9, 11, 13, 15, 17, 19, 1, 3, 5, 7, 9, 11, 13, 15]


def test_check_15_short_videos_draw_independent_starts_over_all_frames():
    starts = np.array([PairSampler().starts(Key(1, i), 30) for i in range(6000)])
    for view in (0, 1):
        assert stats.chisquare(np.bincount(starts[:, view], minlength=30)).pvalue > 1e-3
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.05
    same = np.array([PairSampler(interval="none").starts(Key(1, i), 30) for i in range(50)])
    assert (same[:, 0] == same[:, 1]).all()


def test_check_16_order_of_clips():
    starts = np.array([PairSampler().starts(Key(5, i), 250) for i in range(4000)])
    apart = starts[starts[:, 0] != starts[:, 1]]
    first = int((apart[:, 0] < apart[:, 1]).sum())
    assert stats.binomtest(first, len(apart), 0.5).pvalue > 1e-3
    # The order is independent of how far apart the clips are.
    delta = np.abs(apart[:, 0] - apart[:, 1])
    assert abs(np.corrcoef(delta, apart[:, 0] < apart[:, 1])[0, 1]) < 0.05
    kept = np.array([PairSampler(swap=False).starts(Key(5, i), 250) for i in range(200)])
    assert (kept[:, 0] <= kept[:, 1]).all()


def test_draws_are_pure_and_separate():
    sampler = PairSampler()
    assert sampler.starts(Key(0, 1), 250) == sampler.starts(Key(0, 1), 250)
    assert len({sampler.starts(Key(0, i), 250) for i in range(50)}) > 40
    one = UniformSampler(1, clip_frames=8, stride=2).draw(Key(4), source(99))
    three = UniformSampler(3, clip_frames=8, stride=2).draw(Key(4), source(99))
    assert one.clips[0].indices.tolist() == three.clips[0].indices.tolist()


def test_clip_sets_of_rho_clips():
    """Independent starts, as many views as clips and at least two; ρ = 1 is one clip twice."""
    sampler = ClipSetSampler(4, clip_frames=8, stride=2)
    assert isinstance(sampler, Sampler)
    draw = sampler.draw(Key(1), source(99))
    assert sampler.num_views == len(draw.clips) == 4
    assert len({tuple(c.indices) for c in draw.clips}) == 4
    assert all(len(c.indices) == 8 and c.indices.max() < 99 for c in draw.clips)
    starts = np.array([sampler.starts(Key(3, i), 99) for i in range(2000)])
    assert starts.min() == 0
    assert starts.max() == 84  # 85 possible starts
    assert abs(np.corrcoef(starts.T) - np.eye(4)).max() < 0.1
    one = ClipSetSampler(1, clip_frames=8)
    first, second = one.draw(Key(2), source(50)).clips
    assert one.num_views == 2
    assert first.indices.tolist() == second.indices.tolist()
    image = ClipSetSampler(2, clip_frames=1).draw(Key(0), source(1))
    assert [c.indices.tolist() for c in image.clips] == [[0], [0]]
    with pytest.raises(UsageError, match="rho"):
        ClipSetSampler(0)


@pytest.mark.parametrize("rho", [2, 4])
def test_clip_sets_an_interval_apart(rho):
    """First and last clip as a pair of CVRL, the others between, all in random order."""
    sampler = ClipSetSampler(rho, clip_frames=16, stride=2, interval="increasing")
    assert sampler.pair.distribution.kind == "increasing"
    starts = np.array([sampler.starts(Key(3, i), 250) for i in range(3000)])
    span = starts.max(1) - starts.min(1)
    counts, _ = np.histogram(span, bins=10, range=(0, M))
    expected = np.diff(IntervalDistribution("increasing").cdf(np.linspace(0, M, 11), M)) * 3000
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    # Every view is the first as often as every other.
    assert stats.chisquare(np.bincount(starts.argmin(1), minlength=rho)).pvalue > 1e-3
    assert len(set(ClipSetSampler(rho, interval="none").starts(Key(0), 99))) == 1


def test_samplers_refuse():
    with pytest.raises(UsageError, match="must be ≥ 1 frames, got 0"):
        PairSampler(0, 2)
    with pytest.raises(UsageError, match="must be ≥ 1 frames, got 0"):
        UniformSampler(1, clip_frames=4, stride=0)
    with pytest.raises(UsageError, match="num_clips must be ≥ 1"):
        UniformSampler(0)
    with pytest.raises(UsageError, match="num_frames must be ≥ 1"):
        PairSampler().starts(Key(0), 0)


# ---------------------------------------------------------------------------------------------------- test views


def test_check_22_clip_starts():
    assert clip_starts(250, 32, 10, stride=2) == [0, 20, 41, 62, 82, 103, 124, 144, 165, 186]
    assert clip_starts(300, 32, 10, stride=2) == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236]
    assert clip_starts(60, 32, 10, stride=2) == [0] * 10
    assert clip_starts(250, 32, 1, stride=2) == [0]


def test_check_22_three_crops():
    crops = ClipPlan().crops(256, 340)
    assert [(c.top, c.left, c.size) for c in crops] == [(0, 0, 256), (0, 42, 256), (0, 84, 256)]
    assert [(c.top, c.left) for c in ClipPlan().crops(340, 256)] == [(0, 0), (42, 0), (84, 0)]
    one = ClipPlan(num_crops=1, size_px=224).crops(256, 340)
    assert one == [(16, 58, 224)]


def test_tcgl_check_8_ten_clip_starts():
    """docs/methods/evaluation.md, TCGL's fine-tuning: centres, truncated."""
    assert clip_starts(16, 16, 10, "tcgl") == [0] * 10
    assert clip_starts(20, 16, 10, "tcgl") == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert clip_starts(64, 16, 10, "tcgl") == [0, 5, 10, 16, 21, 26, 32, 37, 42, 48]
    assert clip_starts(100, 16, 10, "tcgl") == [0, 9, 18, 28, 37, 46, 56, 65, 74, 84]
    with pytest.raises(UsageError, match=r"needs at least 16 frames .* has 15"):
        clip_starts(15, 16, 10, "tcgl")


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(1, 4), st.integers(1, 12))
@settings(max_examples=200, deadline=None)
def test_clip_starts_against_linspace(length, frames, stride, clips):
    room = max(0, length - frames * stride)
    assert clip_starts(length, frames, clips, stride=stride) == np.floor(np.linspace(0, room, clips)).tolist()
    if length >= frames * stride:
        half = frames * stride / 2
        centres = np.linspace(half, length - half, clips)
        truncated = [int(round(c - half, 9)) for c in centres]
        assert clip_starts(length, frames, clips, "tcgl", stride) == truncated


def test_clip_plan():
    plan = ClipPlan()
    assert plan.num_views == 30
    assert plan.indices(250).shape == (10, 32)
    assert plan.indices(250)[3].tolist() == list(range(62, 126, 2))
    assert plan.indices(60)[0].tolist() == [i % 60 for i in range(0, 64, 2)]
    assert plan.resized(240, 320) == (256, 341)
    assert plan.resized(320, 240) == (341, 256)
    assert plan.resized(100, 100) == (256, 256)
    assert plan.resized(100, 101) == (256, 258)
    assert ClipPlan(resize_px=(128, 171), size_px=112, num_crops=1).resized(50, 70) == (128, 171)
    assert plan.digest == ClipPlan().digest
    assert (
        len({plan.digest, ClipPlan(stride=1).digest, ClipPlan(rule="tcgl").digest, ClipPlan(num_crops=1).digest}) == 4
    )


@given(st.integers(8, 600), st.integers(8, 600), st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_crops_stay_inside(height, width, crops):
    plan = ClipPlan(size_px=112, short_side_px=128, num_crops=crops)
    resized = plan.resized(height, width)
    assert min(resized) == 128
    boxes = plan.crops(*resized)
    assert len(boxes) == crops
    for box in boxes:
        assert 0 <= box.top <= resized[0] - 112
        assert 0 <= box.left <= resized[1] - 112


def test_clip_plan_refuses():
    with pytest.raises(UsageError, match="crops 256 px out of a resized frame of 128"):
        ClipPlan(short_side_px=128)
    with pytest.raises(UsageError, match="num_clips must be ≥ 1"):
        ClipPlan(num_clips=0)
    with pytest.raises(UsageError, match="rule must be one of cvrl, tcgl"):
        ClipPlan(rule="cvlr")
    with pytest.raises(UsageError, match="rule must be one of cvrl, tcgl"):
        clip_starts(10, 2, 2, "centre")
