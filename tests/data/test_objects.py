"""Where objects are: tubelets within clips, files of boxes and masks, tables to choose from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.batch import Aligned
from unreel.data.boxes import read_boxes, write_boxes
from unreel.data.contracts import FrameSize, Request, SamplerDraw, SourceInfo, TimedFact
from unreel.data.dataset import ClipDataset
from unreel.data.manifest import Manifest, Row
from unreel.data.objects import BoxesColumn, ObjectBoxes, choose_table, open_facts, read_mask, table_name
from unreel.data.rows import AlignedSource
from unreel.data.sidecars import annotate, find_tables
from unreel.media import MissingFileError, TooShortError, UnreadableError
from unreel.media.image import encode_image
from unreel.views.presets import view_plan

SIZE = FrameSize(6, 8, 2)
FRAMES = np.array([1, 3])
TIMES = np.array([0.1, 0.3])


def tube(first: int, last: int, left: float) -> tuple[list[float], list[list[float]]]:
    """An object from frame ``first`` to ``last`` of ten a second, that moves right by 0.01 a frame."""
    frames = range(first, last + 1)
    return [t / 10 for t in frames], [[left + 0.01 * t, 0.2, left + 0.01 * t + 0.1, 0.5] for t in frames]


def objects(*tubes: tuple[list[float], list[list[float]]]) -> ObjectBoxes:
    return ObjectBoxes.of({"tube_times_s": [t for t, _ in tubes], "tube_boxes": [b for _, b in tubes]})


def clip(first: int, last: int) -> np.ndarray:
    return np.arange(first, last + 1) / 10


def test_a_tubelet_in_both_clips_has_the_union_of_its_boxes_in_each() -> None:
    found = objects(tube(0, 20, 0.1))
    assert isinstance(found, TimedFact)
    np.testing.assert_allclose(found.boxes, [[0.1, 0.2, 0.4, 0.5]])
    clips = [clip(2, 5), clip(10, 12)]
    np.testing.assert_allclose(found.of_clips(clips, 0).boxes, [[0.12, 0.2, 0.25, 0.5]])
    np.testing.assert_allclose(found.of_clips(clips, 1).boxes, [[0.2, 0.2, 0.32, 0.5]])
    for view in (0, 1):
        np.testing.assert_allclose(found.of_clips(clips, view).whole, found.boxes)


def test_a_tubelet_that_one_clip_lacks_gives_both_the_union_of_the_video() -> None:
    found = objects(tube(0, 8, 0.1), tube(0, 20, 0.6))
    clips = [clip(2, 5), clip(10, 12)]
    everything = [0.1, 0.2, 0.9, 0.5]
    for view, own in ((0, [0.62, 0.2, 0.75, 0.5]), (1, [0.7, 0.2, 0.82, 0.5])):
        np.testing.assert_allclose(found.of_clips(clips, view).boxes, [everything, own])
    # In a clip that it enters, only the frames that it is in count.
    np.testing.assert_allclose(found.of_clips([clip(7, 12)], 0).boxes[0], [0.17, 0.2, 0.28, 0.5])


def test_sparse_tubelets_take_the_nearest_time() -> None:
    times, boxes = tube(0, 20, 0.1)
    found = objects((times[::5], boxes[::5]))  # every half second
    np.testing.assert_allclose(found.of_clips([clip(4, 6)], 0).boxes, [boxes[5]])
    np.testing.assert_allclose(found.of_clips([clip(1, 4)], 0).boxes, [[*boxes[0][:2], *boxes[5][2:]]])
    assert found.tubes[0].tube_box(clip(22, 23)) is not None  # up to a quarter of a second after its last
    assert found.tubes[0].tube_box(clip(23, 25)) is None


def test_an_object_seen_once_is_in_the_clips_of_that_moment() -> None:
    times, boxes = tube(0, 20, 0.1)
    once = objects(([times[3]], [boxes[3]]), (times, boxes))
    alone, other = once.tubes
    for clip_times, there in (
        (clip(2, 5), True),
        (clip(2, 5)[::-1], True),
        (clip(2, 6)[::2], True),  # between two frames of the clip
        (clip(9, 11), False),
        (clip(3, 3), True),
        (clip(4, 4), False),
    ):
        found = alone.tube_box(clip_times)
        assert (found is not None) is there
        assert not there or found.tolist() == boxes[3]
        assert other.tube_box(clip_times) is not None
    everything = once.of_clips([clip(2, 5), clip(9, 11)], 0).boxes[0]
    np.testing.assert_allclose(everything, [0.1, 0.2, 0.4, 0.5])


def test_what_boxes_may_be() -> None:
    for nothing in (None, [], np.zeros((0, 4)), {"boxes": []}, {"boxes": None, "tube_boxes": [], "tube_times_s": []}):
        assert ObjectBoxes.of(nothing).boxes.shape == (0, 4)
        assert ObjectBoxes.of(nothing).of_clips([TIMES], 0).boxes.shape == (0, 4)
    absent = [[np.nan] * 4, [0.1, 0.2, 0.3, 0.4]]
    assert len(ObjectBoxes.of(absent).boxes) == 1
    assert len(objects(([0.0, 0.1], absent)).tubes[0].times_s) == 1
    assert objects(([0.0], absent[:1])).boxes.shape == (0, 4)  # never there
    for wrong in ([[0.1, 0.2]], [["a", "b", "c", "d"]], {"tube_times_s": [[0.0]], "tube_boxes": []}):
        with pytest.raises(DataError, match="not boxes"):
            ObjectBoxes.of(wrong)


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode_image(np.zeros((6, 8, 3), np.uint8)))
    return tmp_path


def manifest(folder: Path, **files: str) -> Manifest:
    return Manifest(str(folder), tuple(Row(f"{n}.png", files=files) for n in "abc"))


def test_check_C8_a_text_of_boxes_round_trips_to_1e_6(folder: Path) -> None:
    boxes = {"a.png": np.random.default_rng(0).random((3, 2, 2)).cumsum(1).reshape(3, 4) / 2, "b.png": np.zeros((0, 4))}
    boxes["c.png"] = np.array([[0.0, 0.0, 1.0, 1.0]])
    write_boxes(folder / "boxes.txt", boxes)
    column = BoxesColumn(manifest(folder, boxes="boxes.txt"))
    for row, (name, want) in enumerate(boxes.items()):
        np.testing.assert_allclose(column.value(row).boxes, want, atol=1e-6)
        np.testing.assert_allclose(read_boxes(folder / "boxes.txt")[name], want, atol=1e-6)


def test_boxes_of_arrays_and_archives(folder: Path) -> None:
    np.save(folder / "one.npy", [[0.1, 0.2, 0.3, 0.4]])
    assert BoxesColumn(manifest(folder, boxes="one.npy")).value(1).boxes.tolist() == [[0.1, 0.2, 0.3, 0.4]]
    times, boxes = tube(0, 3, 0.1)
    np.savez(folder / "tubes.npz", tube_times_s=[times], tube_boxes=[boxes])
    assert len(BoxesColumn(manifest(folder, boxes="tubes.npz")).value(0).tubes[0].boxes) == 4
    mixed = Manifest(str(folder), (Row("a.png"), Row("b.png", files={"boxes": "one.npy"})))
    assert len(BoxesColumn(mixed).value(0).boxes) == 0  # a row without
    with pytest.raises(DataError, match=r"no row of .* has file\.boxes"):
        BoxesColumn(manifest(folder))
    (folder / "bad.npy").write_bytes(b"no")
    with pytest.raises(UnreadableError):
        BoxesColumn(manifest(folder, boxes="bad.npy")).value(0)
    with pytest.raises(MissingFileError):
        BoxesColumn(manifest(folder, boxes="none.npy")).value(0)


def test_masks_of_every_form(folder: Path) -> None:
    levels = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8)
    np.save(folder / "all.npy", levels)
    np.save(folder / "one.npy", levels[:1])
    np.save(folder / "flat.npy", levels[0])
    np.savez(folder / "frames.npz", masks=levels)
    np.savez(folder / "times.npz", masks=levels[:2], times_s=[0.0, 0.25])
    np.save(folder / "shares.npy", np.full((1, 6, 8), 0.5, np.float32))
    (folder / "still.png").write_bytes(encode_image(np.repeat(levels[2][..., None], 3, -1)))
    (folder / "many").mkdir()
    for t in range(4):
        (folder / "many" / f"{t}.png").write_bytes(encode_image(np.repeat(levels[t][..., None], 3, -1)))

    def read(name: str, **options: Any) -> torch.Tensor:
        return read_mask(folder / name, FRAMES, TIMES, SIZE, **options)

    share = torch.from_numpy(levels).float() / 255
    for name in ("all.npy", "frames.npz", "many"):
        torch.testing.assert_close(read(name), share[[1, 3]])
    for name in ("one.npy", "flat.npy"):
        torch.testing.assert_close(read(name), share[:1])
    torch.testing.assert_close(read("still.png"), share[2:3])
    torch.testing.assert_close(read("times.npz"), share[[0, 1]])  # 0.1 s is nearer to 0, 0.3 s to 0.25
    assert read("shares.npy").unique().tolist() == [0.5]
    assert read("one.npy", binary=True).unique().tolist() == [0.0, 1.0]
    assert read("one.npy", binary=True).sum() == 47  # all but the first pixel
    small = read_mask(folder / "one.npy", FRAMES, TIMES, FrameSize(3, 4, 2))
    assert small.shape == (1, 3, 4)
    with pytest.raises(TooShortError, match="has 4 masks where frame 9"):
        read_mask(folder / "all.npy", np.array([9]), TIMES, SIZE)
    np.savez(folder / "other.npz", maps=levels)
    with pytest.raises(UnreadableError, match="holds no masks"):
        read("other.npz")
    with pytest.raises(MissingFileError):
        read("nowhere.png")


# -------------------------------------------------------------------------------------------------------------- tables


class Boxes:
    """A producer that finds the same box everywhere; two settings are two tables."""

    def __init__(self, name: str = "boxes", left: float = 0.1) -> None:
        self.name, self.version, self.left, self.settings = name, 1, left, {"left": left}

    def compute(self, path: Path) -> dict[str, object]:
        if self.name == "masks":
            return {"file": f"maps/{path.stem}.npy"}
        return {"boxes": [[self.left, 0.2, 0.8, 0.9]] if path.stem != "b" else []}


def test_computed_boxes_are_found_chosen_and_missed(folder: Path) -> None:
    rows = manifest(folder)
    with pytest.raises(DataError, match=f"unreel data annotate boxes {folder} --encoder RUN"):
        open_facts(rows, ["boxes"])
    first = annotate(rows, Boxes(), out=folder / "sidecars").table
    facts = open_facts(rows, ["boxes"])
    assert facts.sidecars["boxes"].value(0).boxes.tolist() == [[0.1, 0.2, 0.8, 0.9]]  # type: ignore[attr-defined]
    assert facts.sidecars["boxes"].value(1).boxes.shape == (0, 4)  # type: ignore[attr-defined]
    assert facts.tables == {"boxes": str(first)}
    second = annotate(rows, Boxes(left=0.3), out=folder / "sidecars").table
    assert {*find_tables("boxes", rows)} == {first, second}
    os.utime(first, (0, 0))
    with pytest.raises(UsageError, match=rf"(?s)2 tables of boxes .*choose one with --data\.boxes {second.stem} "):
        open_facts(rows, ["boxes"])
    assert choose_table("boxes", rows, second.stem) == second
    assert table_name(second, rows) == second.stem
    elsewhere = second.rename(folder / "mine.parquet")
    assert choose_table("boxes", rows, str(elsewhere)) == elsewhere
    assert table_name(elsewhere, rows) == str(elsewhere)
    with pytest.raises(UsageError, match="no table 'other'"):
        choose_table("boxes", rows, "other")
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes() + b" ")
    more = Manifest(str(folder), (*rows.rows, Row("d.png")))
    with pytest.raises(DataError, match=r"missing for 1 of 4 sources .*d\.png"):
        open_facts(more, ["boxes"])
    with pytest.raises(UsageError, match="is no table of objects"):
        choose_table("motion_energy", rows)


def test_tables_to_choose_from_are_told_apart(folder: Path) -> None:
    class Found(Boxes):
        def __init__(self, encoder: str, **settings: Any) -> None:
            super().__init__()
            cam = {"iterations": settings.pop("iterations", 10), "variant": "paper"}
            self.settings: dict[str, Any] = {
                "encoder": encoder,
                "architecture": "resnet18",
                "settings": cam,
                **settings,
            }

    rows = manifest(folder)
    crf = {"iterations": 5}
    made = [
        Found("0123456789abcdef" * 2, crf=crf, seed=0),
        Found("fedcba9876543210" * 2, crf=None, seed=0),
        Found("0123456789abcdef" * 2, crf=crf, seed=0, iterations=3),
    ]
    tables = [annotate(rows, one, out=folder / "sidecars").table for one in made]
    for age, table in enumerate(tables):
        os.utime(table, (86400 * (100 - age),) * 2)
    with pytest.raises(UsageError) as caught:
        choose_table("boxes", rows)
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"there are 3 tables of boxes for {folder}, newest first:"
    assert [line.split()[0] for line in lines] == [table.stem for table in tables]
    assert last == f"choose one with --data.boxes {tables[0].stem} (from Python: boxes=…)"
    for line, want in zip(
        lines,
        (
            "knows 3 of 3 rows, encoder resnet18 01234567, cam.iterations 10, crf on",
            "knows 3 of 3 rows, encoder resnet18 fedcba98, cam.iterations 10, crf none",
            "knows 3 of 3 rows, encoder resnet18 01234567, cam.iterations 3, crf on",
        ),
        strict=True,
    ):
        assert re.search(r"  1970-0\d-\d\d \d\d:\d\d, (.*)", line)[1] == want  # type: ignore[index]
    # Where none knows all rows, how many each knows.
    (folder / "d.png").write_bytes((folder / "a.png").read_bytes() + b" ")
    with pytest.raises(UsageError, match="knows 3 of 4 rows"):
        choose_table("boxes", Manifest(str(folder), (*rows.rows, Row("d.png"))))


def test_without_a_column_the_message_says_how_objects_are_found(folder: Path) -> None:
    spaced = folder.rename(folder.parent / "my pictures")
    rows = manifest(spaced)
    for call, name, switch in (
        ({"sidecars": ["file.boxes"]}, "boxes", "object-crop"),
        ({"aligned": ["file.mask"]}, "masks", "bg-mixup"),
    ):
        with pytest.raises(DataError) as caught:
            open_facts(rows, **call)
        message = str(caught.value)
        assert f"\n  unreel data annotate {name} '{spaced}' --encoder RUN\n" in message
        assert f"--{switch} cam (from Python: {switch.replace('-', '_')}='cam')" in message


def test_masks_become_aligned_data_of_every_row(folder: Path) -> None:
    rows = manifest(folder)
    with pytest.raises(DataError, match="unreel data annotate masks"):
        open_facts(rows, aligned=["masks"])
    with pytest.raises(DataError, match=r"has file\.mask"):
        open_facts(rows, aligned=["file.mask"])
    with pytest.raises(UsageError, match="is not known"):
        open_facts(rows, aligned=["flow"])
    annotate(rows, Boxes("masks"), out=folder / "sidecars")
    (folder / "sidecars" / "maps").mkdir()
    for name in "abc":
        np.save(folder / "sidecars" / "maps" / f"{name}.npy", np.full((1, 3, 4), 51, np.uint8))
    facts = open_facts(rows, aligned=["masks"])
    (source,) = facts.aligned
    assert (source.name, source.kind) == ("mask", "soft_mask")
    path = facts.manifest.file(2, "mask")
    assert path is not None
    data = Aligned(source.kind, source.at(path, FRAMES, TIMES, SIZE)).data
    torch.testing.assert_close(data, torch.full((1, 6, 8), 0.2))
    assert [facts.manifest.sample_id(i) for i in range(3)] == [rows.sample_id(i) for i in range(3)]  # no draw moves
    # A manifest's own: nonzero is object, and a row without has none.
    np.save(folder / "own.npy", np.full((1, 6, 8), 3, np.uint8))
    own = Manifest(str(folder), (Row("a.png", files={"mask": "own.npy"}), Row("b.png")))
    facts = open_facts(own, aligned=["file.mask"])
    for row, want in ((0, 1.0), (1, 0.0)):
        path = facts.manifest.file(row, "mask")
        assert path is not None
        assert facts.aligned[0].at(path, FRAMES, TIMES, SIZE).unique().tolist() == [want]


class TwoClips:
    """The first two frames, then the last two."""

    num_views = 2

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        return SamplerDraw((Request(np.array([0, 1])), Request(np.array([1, 2]))))


class Recorded:
    """A fact that tells which clip it is for."""

    def of_clips(self, times_s: Any, view: int) -> object:
        return [t.tolist() for t in times_s], view

    def value(self, row: int) -> Recorded:
        return self


def test_a_dataset_gives_each_view_its_own_boxes_and_masks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Manifest(str(folder), (Row("", frames=("a.png", "b.png", "c.png"), files={"mask": "a.png"}),))
    known: list[object] = []
    asked: list[tuple[list[int], list[float]]] = []

    def read(path: Path, indices: Any, times_s: Any, size: FrameSize) -> torch.Tensor:
        asked.append((indices.tolist(), times_s.tolist()))
        return torch.zeros(1, size.height, size.width)

    views = view_plan("none", size=4)
    draw = views.draw

    def noted(key: Key, view: int, size: FrameSize, sidecars: Any) -> Any:
        known.append(sidecars["where"])
        return draw(key, view, size, sidecars)

    monkeypatch.setattr(views, "draw", noted)
    aligned = [AlignedSource("mask", "soft_mask", read_at=read)]
    sample = ClipDataset(rows, TwoClips(), views, sidecars={"where": Recorded()}, aligned=aligned).sample(0)
    times = [view.times_s.tolist() for view in sample.views]
    assert times[0] != times[1]
    assert known == [(times, 0), (times, 1)]
    assert asked == [([0, 1], times[0]), ([1, 2], times[1])]
