"""Events and bystanders of the action world: reversal pairs, independence of draws, truth, worlds without them."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest

from unreel.core.errors import UsageError
from unreel.data.synthetic import EVENTS, ActionWorld
from unreel.data.synthetic.scenes import DEPTHS, MASK_CLASSES, paint


def _digest(world: ActionWorld) -> str:
    found = hashlib.blake2b(digest_size=8)
    for i in (0, 2, 4):
        scene = world.render(i, truth=True)
        assert scene.truth is not None
        truth = scene.truth
        for array in (scene.frames, scene.audio, truth.masks, truth.boxes, truth.flow.round(4) + 0.0, truth.counts):
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def test_worlds_without_events_are_what_they_were():
    """Digests taken before events and bystanders existed."""
    assert _digest(ActionWorld(21, 3, 2)) == "f2f91334a49dfe68"
    everything = ActionWorld(
        21, 3, 2, camera=1.0, distractor=1.0, occlusion=1.0, drift_turns=0.5, background_shift=True
    )
    assert _digest(everything) == "648834b658188ccf"


def _layer(world: ActionWorld, index: int, event: int) -> np.ndarray:
    """The event's actor alone, on black: (T, S, S, 3)."""
    track = world._event(world.key(index), event, world.locate(index)[0])
    margin = 40
    canvas = np.zeros((world.num_frames, *[world.size_px + 2 * margin] * 2, 3), dtype=np.uint8)
    paint(canvas, margin, track, world.num_frames)
    return canvas[:, margin:-margin, margin:-margin]


@pytest.mark.parametrize("pair", [0, 1, 2])
def test_a_pair_differs_by_the_arrow_of_time_alone(pair: int):
    world = ActionWorld(3, 6, 0, events=True)
    for index in (0, 5):
        there, back = _layer(world, index, 2 * pair), _layer(world, index, 2 * pair + 1)
        np.testing.assert_array_equal(there[::-1], back)
        assert (there != back).any()


@pytest.mark.parametrize("pair", [0, 1, 2])
def test_the_process_is_monotone_after_its_beginning(pair: int):
    """A snippet's place in time can be told from its state and its speed."""
    world = ActionWorld(3, 6, 0, events=True)
    track = world._event(world.key(1), 2 * pair, "train")
    if pair == 0:
        state = np.hypot(track.x - track.x[world.num_frames - 1], track.y - track.y[world.num_frames - 1])[:-1]
    else:
        state = track.opacity if pair == 1 else track.radius[3:]
    assert np.all(np.diff(state[:-1]) < 0)
    steps = -np.diff(state[:-1])
    assert np.all(np.diff(steps) < 1e-4)  # ever slower


def test_other_tracks_are_untouched_and_frames_hold_the_event():
    plain, world = ActionWorld(4, 4, 2), ActionWorld(4, 4, 2, events=True, bystanders=(3, 3))
    for i in (0, 5):
        a, b = plain.render(i), world.render(i, truth=True)
        assert b.truth is not None
        added = (b.truth.masks >= MASK_CLASSES.index("event")).any(0)
        same = (a.frames == b.frames).all(-1)[:, ~added]
        assert same.mean() > 0.9  # edges and what has faded to less than half are not in the mask
        assert not (a.frames == b.frames).all()
        np.testing.assert_array_equal(a.audio, b.audio)


def test_adding_bystanders_never_moves_another():
    few, many = ActionWorld(5, 3, 0, bystanders=(2, 2)), ActionWorld(5, 3, 0, bystanders=(6, 6))
    for i in range(3):
        a, b = few.render(i, truth=True).truth, many.render(i, truth=True).truth
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.boxes[:, 1:3], b.boxes[:, 1:3])


def test_classes_are_balanced_and_counts_cover_their_range():
    world = ActionWorld(0, 600, 60, events=True, bystanders=(1, 4))
    recipes = [world.recipe(i) for i in range(600)]
    for start in range(0, 600, 6):
        assert sorted(r.event for r in recipes[start : start + 6]) == list(range(6))
    counts = np.bincount([r.num_bystanders for r in recipes])
    assert counts[0] == 0
    assert (counts[1:] > 110).all()
    assert len(counts) == 5
    table = np.zeros((6, 8))
    for r in recipes:
        table[r.event, r.motion] += 1
    assert table.min() > 0
    assert ActionWorld(0, 6, 6).recipe(0).event == -1


def test_truth_of_events_and_bystanders():
    world = ActionWorld(9, 12, 0, events=True, bystanders=(0, 4), occlusion=0.5, distractor=0.5, camera=0.5)
    for i in range(12):
        scene = world.render(i, truth=True)
        truth = scene.truth
        assert truth is not None
        others = 1 + scene.recipe.has_distractor
        assert truth.boxes.shape == (32, others + 1 + scene.count, 4)
        np.testing.assert_array_equal(truth.depth, np.array([DEPTHS[n] for n in MASK_CLASSES], np.float32)[truth.masks])
        for t in (0, 15, 31):
            for name, which in (("event", slice(others, others + 1)), ("bystander", slice(others + 1, None))):
                rows, columns = np.nonzero(truth.masks[t] == MASK_CLASSES.index(name))
                for row, column in zip(rows, columns, strict=True):  # what is seen lies in a box of its kind
                    x1, y1, x2, y2 = truth.boxes[t, which].T
                    assert np.any((x1 <= column) & (column < x2) & (y1 <= row) & (row < y2))
            plain = len({int(v) for v in np.unique(truth.masks[t])} & {1, 2, 4})
            small = np.unique(truth.masks[t]).tolist().count(5)
            assert plain + small <= truth.counts[t] <= plain + scene.count
    dissolved = next(i for i in range(12) if world.recipe(i).event == EVENTS.index("dissolve"))
    truth = world.render(dissolved, truth=True).truth
    assert truth is not None
    assert not (truth.masks[-1] == MASK_CLASSES.index("event")).any()  # faded, but its box is known
    assert np.isfinite(truth.boxes[-1]).all(-1).sum() >= 2


def test_manifest_names_event_and_count(tmp_path):
    pytest.importorskip("av")
    world = ActionWorld(11, 2, 1, size_px=32, num_frames=4, audio_rate_hz=0, events=True, bystanders=(1, 3))
    with world.write(tmp_path / "world").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    scenes = [world.render(i) for i in range(3)]
    assert [r["label.event"] for r in rows] == [s.event for s in scenes]
    assert [r["label.count"] for r in rows] == [str(s.count) for s in scenes]
    again = ActionWorld(**world.settings())
    np.testing.assert_array_equal(again.render(1).frames, scenes[1].frames)
    plain = ActionWorld(11, 1, 1, size_px=32, num_frames=4, audio_rate_hz=0).write(tmp_path / "plain")
    assert plain.read_text().splitlines()[0] == "path,split,label.motion,label.appearance,label.background,group"


def test_impossible_numbers_of_bystanders_are_refused():
    for bad in ((-1, 2), (3, 2), (0, 13)):
        with pytest.raises(UsageError, match="bystanders"):
            ActionWorld(0, 2, 2, bystanders=bad)
