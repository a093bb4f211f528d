"""3-D rotation (docs/methods/rotation.md): exact transposes and flips."""

from __future__ import annotations

import pytest
import torch

from tests.methods.numbered import batch_of, tiny
from unreel.core.errors import UsageError
from unreel.methods import Rotation
from unreel.methods.rotation import rotate


def test_rotate_is_rot90_clip_by_clip() -> None:
    clips = torch.rand(8, 3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    quarters = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    turned = rotate(clips, quarters)
    for clip, found, k in zip(clips, turned, quarters.tolist(), strict=True):
        assert torch.equal(found, torch.rot90(clip, k, (-2, -1)))
    back = rotate(turned, (4 - quarters) % 4)
    assert torch.equal(back, clips)  # no pixel was resampled


def test_all_copies_are_all_four_turns_of_each_clip() -> None:
    method = tiny("rotation")
    assert isinstance(method, Rotation)
    batch = batch_of(method, 5)
    clips, target = method.question(batch)
    assert torch.equal(target, torch.arange(4).expand(5, 4))
    for k, turned in enumerate(clips):
        assert torch.equal(turned, torch.rot90(batch.views[0].data, k, (-2, -1)))
    # Together in one batch, as in the original: a batch norm that saw each turn by itself would hide the turn.
    seen = []
    method.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    method(batch)
    assert seen == [20]


def test_one_copy_draws_the_turn_from_the_sample() -> None:
    method = tiny("rotation", copies="one")
    assert isinstance(method, Rotation)
    batch = batch_of(method, 40)
    (turned,), target = method.question(batch)
    assert torch.equal(turned, rotate(batch.views[0].data, target))
    half, same = method.question(batch_of(method, 20)), target[:20]
    assert torch.equal(half.target, same)  # of the sample, not of its place in a batch
    assert set(target.tolist()) == {0, 1, 2, 3}


def test_there_is_no_mirror() -> None:
    with pytest.raises(UsageError, match=r"set views\.flip_p to 0"):
        tiny("rotation", flip_p=0.5)
    with pytest.raises(UsageError, match="did you mean 'all'"):
        tiny("rotation", copies="al")
