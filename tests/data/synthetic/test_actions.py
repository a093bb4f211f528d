"""The action world: keyed draws, classes that hide from single frames, truth against slow oracles, real files."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from unreel.core.errors import UsageError
from unreel.data.synthetic import APPEARANCES, MOTIONS, ActionWorld
from unreel.data.synthetic.scenes import DEPTHS, MASK_CLASSES


def _state(world: ActionWorld, index: int, t: int) -> list[float]:
    """Everything a perfect observer could read off one frame."""
    split, _ = world.locate(index)
    track = world._track(world.key(index), world.recipe(index), split)
    angle = float(track.angle[t])
    return [
        float(track.x[t]),
        float(track.y[t]),
        float(np.log(track.radius[t])),
        float(track.light[t]),
        np.cos(angle),
        np.sin(angle),
    ]


def _chance_limit(n: int, classes: int) -> float:
    """Three and a half standard errors above chance."""
    p = 1 / classes
    return p + 3.5 * float(np.sqrt(p * (1 - p) / n))


def test_adding_videos_never_changes_another():
    small, large = ActionWorld(3, 5, 3), ActionWorld(3, 9, 7)
    for i, j in ((0, 0), (4, 4), (5, 9), (7, 11)):  # test videos follow the training videos
        a, b = small.render(i), large.render(j)
        assert a.name == b.name
        np.testing.assert_array_equal(a.frames, b.frames)
        np.testing.assert_array_equal(a.audio, b.audio)


def test_worlds_and_splits_differ():
    world = ActionWorld(3, 2, 2)
    other = ActionWorld(4, 2, 2)
    assert not np.array_equal(world.render(0).frames, other.render(0).frames)
    assert not np.array_equal(world.render(0).frames, world.render(2).frames)


def test_classes_are_balanced_and_independent():
    world = ActionWorld(0, 128, 64)
    for start in (0, 64, 128):
        pairs = {world.labels(i) for i in range(start, start + 64)}
        assert len(pairs) == len(MOTIONS) * len(APPEARANCES) == 64
    assert [world.labels(i) for i in range(64)] != [world.labels(i) for i in range(64, 128)]


def test_splits_have_disjoint_periods_and_hues():
    world = ActionWorld(0, 300, 300)
    low, high = world.period_frames
    bins = [
        {int(8 * np.log(world.recipe(i).period_frames / low) / np.log(high / low)) for i in part}
        for part in (range(300), range(300, 600))
    ]
    assert bins[0] == {0, 2, 4, 6}
    assert bins[1] == {1, 3, 5, 7}


@pytest.mark.parametrize("t", [0, 17])
def test_no_single_frame_reveals_motion_even_to_a_perfect_observer(t: int):
    n = 2048
    world = ActionWorld(1, n, n)
    features = np.array([_state(world, i, t) for i in range(2 * n)])
    labels = np.array([world.labels(i)[0] for i in range(2 * n)])
    probe = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(max_iter=300))
    probe.fit(features[:n], labels[:n])
    assert probe.score(features[n:], labels[n:]) < _chance_limit(n, len(MOTIONS)) + 0.01


def test_no_single_frame_nor_time_average_reveals_motion_to_a_linear_probe_on_pixels():
    n = 512
    world = ActionWorld(2, n, n, size_px=32, audio_rate_hz=0)
    one, average, labels = [], [], []
    for i in range(2 * n):
        scene = world.render(i)
        small = scene.frames.reshape(32, 8, 4, 8, 4, 3).mean((2, 4))
        one.append(small[11].ravel())
        average.append(small.mean(0).ravel())
        labels.append(scene.recipe.motion)
    target = np.array(labels)
    for features in (np.array(one), np.array(average)):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        probe.fit(features[:n], target[:n])
        assert probe.score(features[n:], target[n:]) < _chance_limit(n, len(MOTIONS))


def test_the_whole_trajectory_does_reveal_motion():
    n = 512
    world = ActionWorld(1, n, n)
    spread = []
    for i in range(2 * n):
        track = world._track(world.key(i), world.recipe(i), world.locate(i)[0])
        x, y = track.x - track.x.mean(), track.y - track.y.mean()
        moves = [x.std(), y.std(), abs((x * y).mean()), np.log(track.radius).std(), track.light.std()]
        spread.append([*moves, np.cos(track.angle).std(), abs(x[:8].mean()) + abs(y[:8].mean())])
    target = np.array([world.labels(i)[0] for i in range(2 * n)])
    probe = make_pipeline(StandardScaler(), PolynomialFeatures(2), LogisticRegression(C=10, max_iter=500))
    probe.fit(spread[:n], target[:n])
    assert probe.score(spread[n:], target[n:]) > 0.95


def test_second_moments_of_the_place_agree_between_classes():
    world = ActionWorld(5, 4096, 0)
    offsets: dict[int, list[float]] = {}
    for i in range(4096):
        recipe = world.recipe(i)
        track = world._track(world.key(i), recipe, "train")
        place = (np.stack([track.x, track.y]) - np.array(recipe.centre_px)[:, None]) / recipe.amplitude_px
        offsets.setdefault(recipe.motion, []).append(float((place[:, :-1] ** 2).mean()))
    means = [np.mean(v) for v in offsets.values()]
    assert len(means) == 8
    np.testing.assert_allclose(means, 0.5, atol=0.05)  # a cosine's mean square


def test_a_flip_keeps_the_motion_class():
    """The mirror image of every class's trajectories has the class's own distribution of what identifies it."""
    world = ActionWorld(6, 1024, 0)
    for motion, name in enumerate(MOTIONS):
        signs = []
        for i in range(1024):
            if world.labels(i)[0] == motion:
                track = world._track(world.key(i), world.recipe(i), "train")
                x, y = track.x[:9] - track.x[:9].mean(), track.y[:9] - track.y[:9].mean()
                signs.append(float((x * y).mean() + (x[:-1] * y[1:] - y[:-1] * x[1:]).mean()) + np.diff(track.angle)[0])
        values = np.array(signs)
        values = values[np.abs(values) > 1e-3]  # a settled object has not moved yet
        if len(values):
            assert 0.35 < (values > 0).mean() < 0.65, name


def test_flow_carries_each_frame_to_the_next():
    world = ActionWorld(7, 48, 0, camera=1.0)
    moving = [i for i in range(48) if MOTIONS[world.labels(i)[0]] in ("horizontal", "circle", "pulse", "spin")][:8]
    for i in moving:
        scene = world.render(i, truth=True)
        assert scene.truth is not None
        frames, flow = scene.frames.astype(np.float64), scene.truth.flow
        warped_error, still_error = [], []
        for t in range(0, 31, 5):
            rows, columns = np.nonzero(scene.truth.masks[t] == 1)
            x, y = columns + flow[t, rows, columns, 0], rows + flow[t, rows, columns, 1]
            inside = (x >= 0) & (x < 62.9) & (y >= 0) & (y < 62.9)
            rows, columns, x, y = rows[inside], columns[inside], x[inside], y[inside]
            x0, y0 = x.astype(int), y.astype(int)
            fx, fy = (x - x0)[:, None], (y - y0)[:, None]
            after = frames[t + 1]
            top = (1 - fx) * after[y0, x0] + fx * after[y0, x0 + 1]
            bottom = (1 - fx) * after[y0 + 1, x0] + fx * after[y0 + 1, x0 + 1]
            now = frames[t, rows, columns]
            warped_error.append(np.abs((1 - fy) * top + fy * bottom - now).mean())
            still_error.append(np.abs(after[rows, columns] - now).mean())
        assert np.mean(warped_error) < 0.5 * np.mean(still_error) + 1


def test_background_flow_is_the_camera():
    scene = ActionWorld(8, 4, 0, camera=1.0).render(1, truth=True)
    assert scene.truth is not None
    truth = scene.truth
    behind = truth.masks == 0
    for t in range(32):
        assert np.abs(truth.flow[t][behind[t]] + truth.ego_motion[t]).max() < 1e-5
    assert np.abs(truth.ego_motion).max() > 0.05


def test_truth_of_distractor_and_occluder():
    world = ActionWorld(9, 8, 0, distractor=1.0, occlusion=1.0)
    plain = ActionWorld(9, 8, 0)
    for i in range(8):
        scene = world.render(i, truth=True)
        truth = scene.truth
        assert truth is not None
        assert truth.boxes.shape == (32, 2, 4)
        np.testing.assert_array_equal(truth.depth, np.array([DEPTHS[n] for n in MASK_CLASSES], np.float32)[truth.masks])
        for t in (0, 13, 31):
            rows, columns = np.nonzero(truth.masks[t] == 1)
            if len(rows):  # what is seen lies in the box of the whole
                x1, y1, x2, y2 = truth.boxes[t, 0]
                assert x1 <= columns.min()
                assert columns.max() < x2
                assert y1 <= rows.min()
                assert rows.max() < y2
            seen = {int(v) for v in np.unique(truth.masks[t])} & {1, 2}
            assert truth.counts[t] == len(seen)
        occluded = scene.frames[truth.masks == 3]
        assert len(np.unique(occluded, axis=0)) == 1
        # Outside both additions the picture is the same: a property never changes another's draw.
        same = (plain.render(i).frames == scene.frames).all(-1)
        assert same[truth.masks <= 1].mean() > 0.97


def test_background_links():
    linked = ActionWorld(
        0, 256, 256, background_link="motion", background_strength=1.0, test_background="swapped", num_backgrounds=8
    )
    for i in (0, 5, 100):
        assert linked.recipe(i).background == linked.recipe(i).motion
        assert linked.recipe(256 + i).background == (linked.recipe(256 + i).motion + 1) % 8
    free = ActionWorld(0, 640, 0)
    table = np.zeros((8, 8))
    for i in range(640):
        table[free.recipe(i).motion, free.recipe(i).background] += 1
    assert (table > 0).mean() > 0.9  # every background behind every motion


def test_sound_follows_appearance_and_motion():
    world = ActionWorld(0, 64, 0)
    pitches, rates = {}, {}
    for i in range(64):
        scene = world.render(i)
        spectrum = np.abs(np.fft.rfft(scene.audio))
        frequencies = np.fft.rfftfreq(len(scene.audio), 1 / scene.audio_rate_hz)
        pitches.setdefault(scene.appearance, []).append(frequencies[spectrum.argmax()])
        rates.setdefault(scene.motion, []).append(float((np.abs(scene.audio) > 0.1).mean()))
        assert len(scene.audio) == round(32 / 12 * 16_000)
        assert np.abs(scene.audio).max() <= 1
    centres = [np.median(pitches[a]) for a in APPEARANCES]
    assert np.all(np.diff(centres) > 10)
    assert np.mean(rates["horizontal"]) > 2 * np.mean(rates["flicker"])


def test_wrong_arguments_are_refused():
    for bad in (
        {"num_train": 0, "num_test": 0},
        {"size_px": 33},
        {"size_px": 16},
        {"num_frames": 1},
        {"camera": 1.5},
        {"period_frames": (9.0, 8.0)},
        {"num_backgrounds": 0},
        {"drift_turns": 2.0},
        {"background_link": "colour"},
        {"test_background": "swap"},
    ):
        with pytest.raises(UsageError):
            ActionWorld(0, **bad)
    with pytest.raises(IndexError):
        ActionWorld(0, 2, 2).render(4)


def test_files_and_manifest(tmp_path):
    av = pytest.importorskip("av")
    world = ActionWorld(11, 3, 2, distractor=0.5)
    seen = []
    manifest = world.write(tmp_path / "world", truth=True, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)
    with manifest.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["split"] for r in rows] == ["train"] * 3 + ["test"] * 2
    for index, row in enumerate(rows):
        scene = world.render(index, truth=True)
        assert row["label.motion"] == scene.motion
        assert row["label.appearance"] == scene.appearance
        assert row["label.background"] == scene.background
        path = manifest.parent / row["path"]
        with av.open(str(path)) as container:
            assert len(container.streams.audio) == 1
            frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
        assert frames.shape == scene.frames.shape
        # 4:2:0 halves the colour's resolution; what is left is near the picture.
        assert np.abs(frames.astype(int) - scene.frames).mean() < 9
        facts = np.load(manifest.parent / row["file.truth"])
        np.testing.assert_array_equal(facts["masks"], scene.truth.masks)
        assert int(facts["background"]) == scene.recipe.background
    again = ActionWorld(**world.settings())
    np.testing.assert_array_equal(again.render(4).frames, world.render(4).frames)


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    world = ActionWorld(12, 6, 2)
    alone = world.write(tmp_path / "a").parent
    many = world.write(tmp_path / "b", workers=2).parent
    names = sorted(p.relative_to(alone) for p in alone.rglob("*.*"))
    assert names == sorted(p.relative_to(many) for p in many.rglob("*.*"))
    for name in names:
        assert (alone / name).read_bytes() == (many / name).read_bytes()
