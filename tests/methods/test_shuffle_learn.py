"""Shuffle & Learn (docs/methods/shuffle_learn.md)."""

from __future__ import annotations

import itertools

import pytest
import torch

from tests.methods.numbered import batch_of, frames_of, source, tiny
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.methods.shuffle_learn import MomentSampler


def test_positive_means_the_middle_lies_between() -> None:
    batch = batch_of(tiny("shuffle_learn"), 200, applied=False)
    b, m, d = (frames_of(view.data)[:, 0] for view in batch.views)
    assert (b < d).all()  # the ends never tell
    assert torch.equal((b < m) & (m < d), batch.targets["in_order"] == 1)
    # The moments of both kinds of negatives, equally often.
    middle = batch.targets["moments"][batch.targets["in_order"] == 0, 1]
    counts = torch.bincount(middle, minlength=5)
    assert counts[[1, 2, 3]].sum() == 0
    assert min(int(counts[0]), int(counts[4])) > 0.35 * len(middle)


def test_moments_never_overlap_and_reach_both_ends() -> None:
    sampler = MomentSampler(3, 1, stride=2)
    assert sampler.min_frames == 5 * 5 + 4 * 1
    seen = []
    for seed in range(300):
        clips, _ = sampler.draw(Key(seed), source(31))
        starts = sorted(int(c.indices[0]) for c in clips if c.indices is not None)
        assert all(b - a >= 6 for a, b in itertools.pairwise(starts))
        seen += [int(i) for c in clips if c.indices is not None for i in c.indices]
    assert (min(seen), max(seen)) == (0, 30)
    with pytest.raises(UsageError, match="need 29 frames, the source has 28"):
        sampler.draw(Key(0), source(28))


def test_a_window_keeps_the_moments_together() -> None:
    sampler = MomentSampler(2, window=12)
    assert sampler.min_frames == 12
    firsts = set()
    for seed in range(200):
        clips, _ = sampler.draw(Key(seed), source(40))
        frames = [int(i) for c in clips if c.indices is not None for i in c.indices]
        assert max(frames) - min(frames) < 12
        firsts.add(min(frames) // 10)
    assert firsts == {0, 1, 2, 3}
    with pytest.raises(UsageError, match="take 10 frames, the window has 9"):
        MomentSampler(2, window=9)
    with pytest.raises(UsageError, match="positive_p"):
        MomentSampler(2, positive_p=1.0)


def test_every_five_moments_are_equally_likely() -> None:
    """With one frame each and 7 frames there are 7 choose 5 = 21 sets; the positives show their middle three."""
    sampler = MomentSampler(1, positive_p=0.999)
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2000):
        clips, targets = sampler.draw(Key(seed), source(7))
        if targets["in_order"]:
            key = tuple(int(c.indices[0]) for c in clips if c.indices is not None)
            counts[key] = counts.get(key, 0) + 1
    # (b, c, d) = (1, 2, 3): a = 0 and e of 4, 5, 6: 3 of 21; (2, 3, 4): a of 0, 1 and e of 5, 6: 4 of 21.
    assert counts[1, 2, 3] / 2000 == pytest.approx(3 / 21, abs=0.04)
    assert counts[2, 3, 4] / 2000 == pytest.approx(4 / 21, abs=0.04)
    assert sum(counts.values()) > 1980
