"""Held-out rows: whole groups, the same draws every time, nothing in the place of what cannot be read."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.data.batch import Batch
from unreel.data.dataset import ClipDataset
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import UniformSampler
from unreel.data.splits import hold_out
from unreel.data.validation import ValidationLoader
from unreel.views.presets import view_plan


def grouped(count: int = 60, per_group: int = 3) -> Manifest:
    return Manifest("/", tuple(Row(f"{i}.mp4", groups={"group": f"g{i // per_group}"}) for i in range(count)))


def test_whole_groups_are_held_out() -> None:
    manifest = grouped()
    for amount, wanted in ((7, 7), (0.2, 12), (1, 1), (0.5, 30)):
        mask = np.array(hold_out(manifest, amount))
        assert wanted <= mask.sum() < wanted + 3
        assert all(len(set(mask[i : i + 3])) == 1 for i in range(0, 60, 3))
    assert not any(hold_out(manifest, 0))
    assert hold_out(manifest, 9, seed=1) != hold_out(manifest, 9)


def test_the_choice_does_not_depend_on_the_order_of_rows_and_hardly_on_other_rows() -> None:
    manifest = grouped()
    mask = hold_out(manifest, 9)
    order = np.random.default_rng(0).permutation(60)
    again = hold_out(manifest.subset(order), 9)
    assert all(mask[row] == out for row, out in zip(order, again, strict=True))
    fewer = hold_out(manifest.subset(range(57)), 9)
    assert sum(a != b for a, b in zip(mask, fewer, strict=False)) <= 6  # at most one group for another


def test_rows_without_a_group_go_by_their_path() -> None:
    spans = tuple(Row(f"{i // 2}.mp4", start_s=float(i % 2), end_s=i % 2 + 1.0) for i in range(20))
    mask = hold_out(Manifest("/", spans), 5)
    assert sum(mask) == 6
    assert mask[::2] == mask[1::2]


def test_amounts_that_cannot_be() -> None:
    for amount in (-1, 2.5):
        with pytest.raises(UsageError, match="whole number"):
            hold_out(grouped(), amount)
    with pytest.raises(DataError, match="leaves none to train on"):
        hold_out(grouped(), 60)
    with pytest.raises(DataError, match="2 groups"):
        hold_out(grouped(6), 4)


def dataset(root: Path, broken: bool = False) -> ClipDataset:
    manifest = Manifest.open(root)
    if broken:
        rows = [replace(r, path="missing.mp4") if i == 3 else r for i, r in enumerate(manifest)]
        manifest = replace(manifest, rows=tuple(rows))
    return ClipDataset(manifest, UniformSampler(clip_frames=4), view_plan("crop_only", size=16, num_views=1), seed=3)


def clips(batches: list[Batch | None]) -> dict[int, torch.Tensor]:
    found = [b for b in batches if b is not None]
    return {int(i): clip for b in found for i, clip in zip(b.sample_id, b.views[0].data, strict=True)}


def equal(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[i], b[i]) for i in a)


def test_draws_are_the_same_every_time_in_any_order_and_process(tiny_world: Path) -> None:
    data = dataset(tiny_world)
    loader = ValidationLoader(data, 12)
    assert [len(r) for r in loader.rows] == [11, 11, 10]  # nearly equal, never a batch of one
    first = clips(list(loader.iterate(range(3))))
    assert len(first) == 32
    assert equal(clips(list(loader.iterate(range(3)))), first)  # kept
    fresh = ValidationLoader(data, 5, workers=1)
    assert equal(clips(list(fresh.iterate(range(len(fresh))))), first)
    turned = replace(data.manifest, rows=data.manifest.rows[::-1])
    other = ValidationLoader(ClipDataset(turned, data.sampler, data.views, seed=3), 12)
    assert equal(clips(list(other.iterate(range(3)))), first)
    alone = ValidationLoader(data, 12)
    assert equal(clips(list(alone.iterate([2]))), {int(i): first[int(i)] for i in next(loader.iterate([2])).sample_id})  # type: ignore[union-attr]
    assert not equal(clips(list(loader.iterate(range(3), draw=0))), first)
    assert not equal(clips(list(loader.iterate(range(3), draw=1))), clips(list(loader.iterate(range(3), draw=0))))
    # The draws of epoch 0 are training's own: validation's are others.
    assert not torch.equal(data.sample(0).views[0].data, first[data.manifest.sample_id(0)])


def test_too_much_to_keep_is_read_again(tiny_world: Path) -> None:
    loader = ValidationLoader(dataset(tiny_world), 12)
    loader._room = 20_000  # one batch of 11 clips of 4 × 16² × 3 bytes is 33,792
    first = clips(list(loader.iterate(range(3))))
    assert not loader._kept.keys() - {2}
    assert equal(clips(list(loader.iterate(range(3)))), first)


def test_what_cannot_be_read_is_left_out_and_said_once(tiny_world: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(tiny_world, broken=True)
    loader = ValidationLoader(data, 12)
    with caplog.at_level(logging.WARNING, logger="unreel.data"):
        first = clips(list(loader.iterate(range(3))))
        loader._kept.clear()
        list(loader.iterate(range(3)))
    assert len(first) == 31
    assert Counter("missing.mp4" in r.message for r in caplog.records)[True] == 1
    single = ValidationLoader(data, 1)
    gone = next(n for n, rows in enumerate(single.rows) if rows == [3])
    assert list(single.iterate([gone])) == [None]
    with pytest.raises(UsageError, match="batch_size"):
        ValidationLoader(data, 0)
