"""Arrow of time (docs/methods/arrow_of_time.md)."""

from __future__ import annotations

import pytest
import torch

from tests.methods.numbered import batch_of, frames_of, source, tiny
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.methods.arrow_of_time import ReverseSampler


def test_the_label_is_the_direction_of_the_frames() -> None:
    batch = batch_of(tiny("arrow_of_time", stride=2), 100, applied=False)
    steps = frames_of(batch.views[0].data).diff()
    backward = batch.targets["reversed"] == 1
    assert torch.equal(steps, torch.where(backward, -2, 2)[:, None].expand_as(steps))
    assert 30 < int(backward.sum()) < 70


def test_a_direction_changes_nothing_else() -> None:
    """The same key reads the same frames; only their order differs with the label."""
    always, never = ReverseSampler(4, reverse_p=1 - 1e-9), ReverseSampler(4, reverse_p=1e-9)
    for seed in range(20):
        a, b = (s.draw(Key(seed), source(20)).clips[0].indices for s in (always, never))
        assert a is not None
        assert b is not None
        assert a.tolist() == b[::-1].tolist()


def test_nothing_is_looped() -> None:
    sampler = ReverseSampler(4, stride=3)
    assert sampler.min_frames == 10
    starts = {min(sampler.draw(Key(s), source(12)).clips[0].indices.tolist()) for s in range(60)}  # type: ignore[union-attr]
    assert starts == {0, 1, 2}
    with pytest.raises(UsageError, match="need 10 frames, the source has 9"):
        sampler.draw(Key(0), source(9))
    for wrong in ({"clip_frames": 1}, {"reverse_p": 0.0}):
        with pytest.raises(UsageError, match=r"must be (≥ 2 frames, got 1|> 0, got 0\.0)"):
            ReverseSampler(**wrong)  # type: ignore[arg-type]
