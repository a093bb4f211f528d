"""VCP's cloze (docs/methods/vcp.md)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.methods.numbered import batch_of, frames_of, source, tiny
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.methods import VCP
from unreel.methods.vcp import OPERATIONS, ClozeSampler, permute_tiles


def test_each_operation_does_to_the_middle_what_its_label_says() -> None:
    method = tiny("vcp", shuffle_parts=2)
    assert isinstance(method, VCP)
    batch = batch_of(method, 120, frames=40)
    (before, middle, after), target = method.question(batch)
    assert torch.equal(before, batch.views[0].data)
    assert torch.equal(after, batch.views[2].data)
    first, last, shown = frames_of(before), frames_of(after), frames_of(middle)
    assert torch.equal(last, first + 12)  # 2 · (4 frames + 2 between)
    plain = torch.equal  # the pixels of a clip that only its times tell apart
    for i, name in enumerate(OPERATIONS[k] for k in target.tolist()):
        own = first[i] + 6
        unchanged = plain(middle[i], batch.views[1].data[i])
        if name == "shuffle":
            assert shown[i].tolist() == own[[2, 3, 0, 1]].tolist()
            assert unchanged
        elif name == "remote":
            assert shown[i].diff().tolist() == [1, 1, 1]
            assert shown[i, -1] + 2 < first[i, 0] or shown[i, 0] > last[i, -1] + 2
            assert unchanged
        else:
            assert shown[i].tolist() == own.tolist()
            assert unchanged == (name == "identity")
            if name == "rotation":
                turns = [torch.rot90(batch.views[1].data[i], k, (-2, -1)) for k in (1, 2, 3)]
                assert any(plain(middle[i], t) for t in turns)
    assert torch.bincount(target, minlength=5).min() > 8


def test_permute_tiles_is_a_loop_over_tiles() -> None:
    clips = torch.rand(24, 2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    orders = torch.tensor(list(itertools.permutations(range(4))))
    found = permute_tiles(clips, orders)
    corner = [(y, x) for y in (0, 3) for x in (0, 3)]
    for clip, out, order in zip(clips, found, orders.tolist(), strict=True):
        for (y, x), origin in zip(corner, order, strict=True):
            v, u = corner[origin]
            assert torch.equal(out[..., y : y + 3, x : x + 3], clip[..., v : v + 3, u : u + 3])
    assert torch.equal(found[0], clips[0])
    assert all(not torch.equal(a, b) for a, b in zip(found[1:], clips[1:], strict=True))


@pytest.mark.parametrize("length", [22, 25, 28, 40])
def test_starts_and_remote_places_are_uniform_over_those_with_room(length: int) -> None:
    """Against a list of all places; 22 frames are the least: three clips of 4, 2 apart, and a fourth."""
    sampler = ClozeSampler(("identity", "remote"), 4, 2)
    assert sampler.min_frames == 22
    spans = range(length - 16 + 1)
    possible = {
        s: [r for r in range(length - 3) if r + 6 <= s or r >= s + 18] for s in spans if s >= 6 or s + 16 + 6 <= length
    }
    starts: dict[int, int] = {}
    places: set[tuple[int, int]] = set()
    draws = 1500
    for seed in range(draws):
        clips, targets = sampler.draw(Key(seed), source(length))
        first, middle, last = (np.asarray(c.indices) for c in clips)
        assert last[0] == first[0] + 12
        start = int(first[0])
        starts[start] = starts.get(start, 0) + 1
        if int(targets["operation"]):
            assert int(middle[0]) in possible[start]
            places.add((start, int(middle[0])))
        else:
            assert middle[0] == start + 6
    assert starts.keys() == possible.keys()
    expected = draws / len(possible)
    assert max(abs(c - expected) for c in starts.values()) < 6 * expected**0.5
    if length < 40:
        assert places == {(s, r) for s, rest in possible.items() for r in rest}
    with pytest.raises(UsageError, match="need 22 frames, the source has 21"):
        sampler.draw(Key(0), source(21))


def test_without_remote_clips_no_room_is_needed() -> None:
    sampler = ClozeSampler(("identity", "shuffle"), 4, 2, shuffle_parts=4)
    assert sampler.min_frames == 16
    starts = {int(np.asarray(sampler.draw(Key(s), source(18)).clips[0].indices)[0]) for s in range(60)}
    assert starts == {0, 1, 2}
    shuffled = {tuple(np.asarray(sampler.draw(Key(s), source(16)).clips[1].indices).tolist()) for s in range(900)}
    assert shuffled == set(itertools.permutations(range(6, 10)))  # the identity among them, as its own class


def test_operations_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="did you mean 'rotation'"):
        ClozeSampler(("identity", "rotatoin"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least two different"):
        ClozeSampler(("identity",))
    with pytest.raises(UsageError, match="4 frames cannot be shuffled in 3"):
        ClozeSampler(("identity", "shuffle"), 4, shuffle_parts=3)
    with pytest.raises(UsageError, match="even size, got 9"):
        tiny("vcp", size=9)
