"""Clusters, near-duplicates and outliers: oracles, planted files, and what a person reads."""

from __future__ import annotations

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unreel.core.errors import DataError, UsageError
from unreel.media import read_clip
from unreel.media.image import encode_image
from unreel.media.write import write_video
from unreel.nn import create_encoder
from unreel.protocols import embed
from unreel.protocols.compute import Compute
from unreel.protocols.copies import same_pictures
from unreel.protocols.features import Embeddings
from unreel.protocols.retrieval import Hit
from unreel.protocols.samples import FeatureSet
from unreel.tasks import explore
from unreel.tasks.task import Parts

QUIET = Compute(workers=0, progress=False)


def embeddings(vectors, paths=None):
    vectors = np.asarray(vectors, np.float32)
    n = len(vectors)
    names = [f"/d/{i:02d}.mp4" for i in range(n)] if paths is None else paths
    ids = np.array([Path(name).name for name in names])
    return Embeddings(
        vectors, ids, None, None, (), vectors[:, None], np.arange(n), ids, tuple(names), (None,) * n, n, "video"
    )


def clouds(sizes, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.eye(len(sizes), 8) * 5
    return np.concatenate([c + rng.normal(0, 0.3, (n, 8)) for c, n in zip(centres, sizes, strict=True)])


# --- clusters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", ["auto", 3])
def test_clusters_are_the_planted_ones_the_largest_first_with_the_medoid_in_front(clusters):
    vectors = clouds([4, 9, 6])
    found = explore.cluster(embeddings(vectors), clusters)
    at = {row.path: int(row.path[3:5]) for row in found}
    assert [sorted(at[r.path] for r in group) for group in found.groups] == [
        list(range(4, 13)),
        list(range(13, 19)),
        list(range(4)),
    ]
    centred = vectors - vectors.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    for group in found.groups:
        members = [at[row.path] for row in group]
        likeness = unit[members] @ unit[members].mean(0)
        assert np.argmax(likeness) == 0  # no member is more typical
        assert (np.diff([row.similarity for row in group]) <= 0).all()


def test_clusters_do_not_depend_on_scale_and_repeat_by_their_seed():
    vectors = clouds([5, 5, 5], seed=1)
    one = explore.cluster(embeddings(vectors), 4, seed=3)
    assert one == explore.cluster(embeddings(vectors), 4, seed=3)
    assert [r[:3] for r in one] == [r[:3] for r in explore.cluster(embeddings(vectors * 7), 4, seed=3)]


def test_calls_that_cannot_be_and_encoders_that_tell_nothing():
    with pytest.raises(UsageError, match="there are 3 files, fewer than 4"):
        explore.cluster(embeddings(np.eye(3)), 4)
    with pytest.raises(UsageError, match="clusters"):
        explore.cluster(embeddings(np.eye(3)), 0)
    with pytest.raises(DataError, match="at least 3 files, and 2"):
        explore.cluster(embeddings(np.eye(2)))
    same = explore.cluster(embeddings(np.ones((5, 4))))
    assert len(same) == 5
    assert "collapsed" in same.notes[0]


# --- outliers -------------------------------------------------------------------------------------------------------


def test_outliers_are_by_the_fifth_neighbours_distance():
    vectors = np.random.default_rng(2).normal(size=(30, 4)).astype(np.float32)
    found = explore.outliers(embeddings(vectors * [1, 100, 1, 1]), 30)
    vectors = vectors / vectors.std(0)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    fifth = np.sort(distances, axis=1)[:, 5]
    assert [int(row.path[3:5]) for row in found] == np.argsort(-fifth).tolist()
    assert [row.distance for row in found] == pytest.approx(sorted(fifth / np.median(fifth), reverse=True), rel=1e-4)
    np.fill_diagonal(distances, np.inf)
    assert [int(row.nearest[3:5]) for row in found] == [int(distances[int(r.path[3:5])].argmin()) for r in found]


def test_a_planted_odd_file_comes_first(tiny_world, tmp_path):
    shutil.copytree(tiny_world, tmp_path / "w")
    (tmp_path / "w" / "manifest.csv").unlink()
    write_video(tmp_path / "w" / "odd.mp4", np.zeros((16, 32, 32, 3), np.uint8), fps=8)
    found = explore.outliers(embed(create_encoder("r3d_tiny", seed=1), tmp_path / "w", workers=0, progress=False), 3)
    assert len(found) == 3
    assert Path(found[0].path).name == "odd.mp4"
    assert found[0].distance > 1.2 * found[1].distance


# --- near-duplicates ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A world of 24 moving scenes, six of them with a re-encoded, a cropped and a trimmed copy; and pictures alike."""
    from unreel.data.synthetic import ActionWorld

    root = tmp_path_factory.mktemp("copies")
    ActionWorld(5, 24, 1, size_px=64, num_frames=24, audio_rate_hz=0).write(root / "w")
    originals = sorted((root / "w" / "train").rglob("*.mp4"))
    for i, file in enumerate(originals):
        shutil.move(file, root / f"{i:02d}.mp4")
    shutil.rmtree(root / "w")
    for i in range(0, 24, 4):
        pixels = read_clip(root / f"{i:02d}.mp4", indices=range(24)).pixels
        write_video(root / f"{i:02d}_again.mp4", pixels, fps=8, crf=28)
        write_video(root / f"{i:02d}_cropped.mp4", np.ascontiguousarray(pixels[:, 4:60, 4:60]), fps=8)
        write_video(root / f"{i:02d}_trimmed.mp4", pixels[3:-3], fps=8)
    return root


def test_planted_copies_are_found_and_nothing_else(copied):
    table = embed(create_encoder("r3d_tiny", seed=1), copied, workers=0, progress=False)
    found = explore.duplicates(table, compute=QUIET)
    pairs = {(a.path, b.path) for group in found.groups for a in group for b in group if a.path < b.path}
    right = {(a, b) for a, b in pairs if Path(a).name[:2] == Path(b).name[:2]}
    assert len(right) == len(pairs)  # precision 1
    assert len(right) >= 0.9 * 6 * 6  # recall: six groups of four, six pairs each
    assert all(0.85 <= row.similarity <= 1 for row in found)
    assert [row.group for row in found] == sorted(row.group for row in found)
    strict = explore.duplicates(
        embed(create_encoder("r3d_tiny", seed=1), copied, workers=0, progress=False), 1.0, compute=QUIET
    )
    assert len(strict) == 0
    assert strict.summary.startswith("no near-duplicates among 42 videos")


def test_two_videos_of_one_still_scene_are_no_copies_and_pictures_go_by_their_details(tmp_path):
    rng = np.random.default_rng(3)
    scene = np.kron(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    for name, column in (("left", 4), ("right", 44)):
        frames = np.repeat(scene[None], 20, 0)
        for t in range(20):
            frames[t, 2 * t : 2 * t + 16, column : column + 16] = 255 * (name == "left")
        write_video(tmp_path / f"{name}.mp4", frames, fps=8)
    write_video(tmp_path / "still.mp4", np.repeat(scene[None], 20, 0), fps=8)
    (tmp_path / "scene.png").write_bytes(encode_image(scene))
    (tmp_path / "dimmer.png").write_bytes(encode_image(scene // 2 + 60))
    (tmp_path / "other.png").write_bytes(encode_image(scene[::-1]))
    names = ["left.mp4", "right.mp4", "still.mp4", "scene.png", "dimmer.png", "other.png"]
    files = embeddings(np.eye(6), [str(tmp_path / name) for name in names])
    pairs = np.array([(0, 1), (0, 2), (2, 3), (3, 4), (3, 5), (4, 2)])
    likeness = same_pictures(files, pairs, QUIET)
    assert (likeness >= explore.ABOVE).tolist() == [False, False, True, True, False, True]
    np.testing.assert_allclose(likeness, same_pictures(files, pairs[:, ::-1], QUIET), atol=1e-6)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    broken = embeddings(np.eye(2), [str(tmp_path / "left.mp4"), str(tmp_path / "broken.mp4")])
    assert same_pictures(broken, np.array([(0, 1)]), QUIET).tolist() == [-1]


def test_windows_that_share_seconds_are_not_compared(monkeypatch):
    spans = [(0.0, 2.0), (1.0, 3.0), (2.0, 4.0), None, (3.5, None)]
    paths = ["/a.mp4", "/a.mp4", "/a.mp4", "/b.mp4", "/b.mp4"]
    asked = []

    def alike(_, pairs, __):
        asked.extend(pairs.tolist())
        return np.ones(len(pairs))

    monkeypatch.setattr(explore, "same_pictures", alike)
    table = replace(embeddings(np.eye(5), paths), spans=tuple(spans))
    assert len(explore.duplicates(table, compute=QUIET)) == 5
    assert asked == [[0, 2], [0, 3], [0, 4], [1, 3], [1, 4], [2, 3], [2, 4]]


def test_copies_across_a_split_are_named(copied):
    table = embed(create_encoder("r3d_tiny", seed=1), copied, workers=0, progress=False)
    names = table.ids.astype(str)
    train = np.array([len(name) == 6 for name in names])

    def parts(train, test):
        return Parts(
            FeatureSet(table.views[train], ids=names[train]), None, FeatureSet(table.views[test], ids=names[test])
        )

    (note,) = explore.leaks(table, [parts(train, ~train)], QUIET)
    assert note.startswith("18 test videos are near-duplicates of training videos, so the scores are too good: ")
    assert "00_again.mp4 ~ 00.mp4, 00_cropped.mp4 ~ 00.mp4" in note
    even = np.array([int(name[:2]) < 12 for name in names])
    assert explore.leaks(table, [parts(even, ~even)], QUIET) == []


# --- tables ---------------------------------------------------------------------------------------------------------


def test_tables_have_seconds_only_where_there_are_some():
    rows = [Hit("/a,b.mp4", None, 0.12345), Hit("/c.mp4", (1.0, None), 0.1)]
    found = list(csv.DictReader(io.StringIO(explore.as_csv(rows))))
    assert found[0] == {"path": "/a,b.mp4", "start_s": "", "end_s": "", "similarity": "0.1235"}
    assert found[1]["start_s"] == "1.0"
    assert explore.as_csv(rows[:1]).startswith("path,similarity\n")
