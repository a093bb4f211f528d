"""Clip order: what is asked, what can be told, what cannot."""

from dataclasses import replace

import numpy as np
import pytest

from tests.contracts.test_task import TaskContract
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.data.synthetic import ActionWorld
from unreel.protocols import ArrayClips, LinearProbe, embed
from unreel.tasks import TASKS, ClipOrderTask, FrameStatistics, evaluate
from unreel.tasks.classification import score_head
from unreel.tasks.order import IN_ORDER, SWAPPED

N = 60


def _clips(brightness, n=N, order=None, prefix="s"):
    """Two clips of flat grey per source: (N, 2, 2, 8, 8, 3)."""
    values = np.asarray(brightness(np.arange(n)), dtype=np.float64)  # (N, 2)
    clips = np.broadcast_to(values[:, :, None, None, None, None], (n, 2, 2, 8, 8, 3)).astype(np.uint8)
    names = np.array([f"{prefix}{i:03d}" for i in range(n)])
    groups = np.array([f"g{i // 3}" for i in range(n)])
    at = np.arange(n) if order is None else order
    return ArrayClips(clips[at], groups=groups[at], ids=names[at].tolist())


def _brighter(i):
    base = 40 + 7 * i % 100
    return np.stack([base, base + 60], axis=1)


def _noise(i):
    return np.random.default_rng(0).integers(20, 230, (len(i), 2))


class TestClipOrder(TaskContract):
    def make(self, order=None):
        return ClipOrderTask(_clips(_noise, order=order))

    def embeddings(self, task):
        """Of two views each."""
        found = super().embeddings(task)
        return replace(found, per_view=np.stack([found.vectors, found.vectors + 1], axis=1))


def test_it_is_registered_and_named():
    assert TASKS["clip_order"] is ClipOrderTask
    assert ClipOrderTask(_clips(_noise)).name == "order"


def test_the_order_shown_is_keyed_by_source_and_seed_and_fair():
    few, more = ClipOrderTask(_clips(_noise, 40)), ClipOrderTask(_clips(_noise, 400))
    np.testing.assert_array_equal(few.labels, more.labels[:40])
    assert set(more.labels) == {IN_ORDER, SWAPPED}
    assert 0.4 < (more.labels == SWAPPED).mean() < 0.6
    assert (ClipOrderTask(_clips(_noise, 400), seed=1).labels != more.labels).any()


def test_vectors_are_both_clips_in_the_order_shown_and_their_difference():
    data = _clips(_brighter)
    task = ClipOrderTask(data)
    encoder = FrameStatistics()
    embeddings = embed(encoder, task.clips(ClipPlan()), progress=False)
    parts = task.parts(embeddings)
    width = encoder.num_features
    kept = embeddings.per_view.copy()
    for part in (parts.train, parts.test):
        first, second, difference = np.split(part.vectors, 3, axis=1)
        assert first.shape[1] == width
        np.testing.assert_array_equal(second - first, difference)
        later_first = part.labels == SWAPPED
        assert (difference[later_first, 0] < 0).all()  # the mean brightness, feature 0, rises with time
        assert (difference[~later_first, 0] > 0).all()
        at = [embeddings.ids.tolist().index(name) for name in part.ids]
        swap = later_first[:, None]
        np.testing.assert_array_equal(first, np.where(swap, kept[at, -1], kept[at, 0]))
    np.testing.assert_array_equal(embeddings.per_view, kept)  # not changed in place


def test_a_clock_in_the_pixels_is_read_and_its_absence_is_chance():
    told = evaluate(FrameStatistics(), ClipOrderTask(_clips(_brighter, 120)), baselines=(), progress=False)
    assert told.score().value > 0.95
    assert told.score().chance == pytest.approx(0.5, abs=0.1)
    task = ClipOrderTask(_clips(_noise, 600))
    parts = task.parts(embed(FrameStatistics(), task.clips(ClipPlan()), progress=False))
    assert abs(score_head(LinearProbe(c=0.01).fit(parts.train), parts.test).score() - 0.5) < 0.15


def test_reversible_content_tells_nothing_of_order():
    """The same two states in both orders: no probe can do better than guess, however good the embedding."""
    there = _brighter(np.arange(300))
    both = np.concatenate([there, there[:, ::-1]])
    task = ClipOrderTask(_clips(lambda i: both[i], 600))
    parts = task.parts(embed(FrameStatistics(), task.clips(ClipPlan()), progress=False))
    assert abs(score_head(LinearProbe(c=1.0).fit(parts.train), parts.test).score() - 0.5) < 0.15


def test_files_are_cut_once_with_one_crop_and_must_not_overlap(tmp_path):
    pytest.importorskip("av")
    world = ActionWorld(1, 12, 12, size_px=32, num_frames=10, audio_rate_hz=0, events=True)
    task = ClipOrderTask(world.write(tmp_path))
    plan = ClipPlan(num_frames=4, stride=1, num_clips=3, num_crops=3, size_px=32, short_side_px=32)
    embeddings = embed(FrameStatistics(), task.clips(plan), progress=False)
    assert embeddings.per_view.shape[:2] == (24, 3)
    parts = task.parts(embeddings)
    assert (len(parts.train), len(parts.test)) == (12, 12)
    with pytest.raises(DataError, match=r"00000\.mp4.*share some of its 10 frames"):
        task.clips(ClipPlan(num_frames=6, stride=1, num_clips=2, num_crops=1, size_px=32, short_side_px=32))
    with pytest.raises(UsageError, match="at least 2 clips"):
        task.clips(ClipPlan(num_clips=1))


def test_one_view_is_refused_and_own_labels_are_kept(tmp_path):
    one = ArrayClips(np.zeros((30, 2, 8, 8, 3), np.uint8))
    task = ClipOrderTask(one)
    with pytest.raises(DataError, match="two views"):
        task.parts(embed(FrameStatistics(), task.clips(ClipPlan()), progress=False))
    rows = tuple(Row(f"{i}.mp4", split=("train", "test")[i % 2], labels={"motion": "up"}) for i in range(40))
    task = ClipOrderTask(Manifest(str(tmp_path), rows))
    assert isinstance(task.data, Manifest)
    assert task.data.labels("motion") == ["up"] * 40
    assert task.classes == [IN_ORDER, SWAPPED]
