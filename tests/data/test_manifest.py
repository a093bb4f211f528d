"""Manifests: every way in, exact round trips, and messages a stranger can act on."""

from __future__ import annotations

import os
import pickle
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.media import VideoInfo


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


# ------------------------------------------------------------------------------------------------------------- folders


def test_one_folder_deep_is_labelled(tmp_path: Path) -> None:
    _touch(tmp_path, "wave/b.mp4", "wave/a.mp4", "run/c.MP4", ".cache/x.mp4", "run/.d.mp4", "run/notes.txt")
    manifest = Manifest.from_folder(tmp_path)
    assert [r.path for r in manifest] == ["run/c.MP4", "wave/a.mp4", "wave/b.mp4"]
    assert manifest.labels() == ["run", "wave", "wave"]
    assert manifest.splits == ()
    text = "; ".join(manifest.notices)
    assert "1 file that is no media by its name ignored (.txt: 1)" in text
    assert "2 hidden files or folders" in text


def test_split_folders(tmp_path: Path) -> None:
    _touch(tmp_path, "Train/wave/a.mp4", "Train/run/b.mp4", "validation/wave/c.mp4", "test/run/d.mp4")
    manifest = Manifest.from_folder(tmp_path)
    assert {(r.path, r.split, r.labels["label"]) for r in manifest} == {
        ("Train/wave/a.mp4", "train", "wave"),
        ("Train/run/b.mp4", "train", "run"),
        ("validation/wave/c.mp4", "val", "wave"),
        ("test/run/d.mp4", "test", "run"),
    }
    flat = _touch(tmp_path / "flat", "train/a.mp4", "test/b.mp4")
    assert [(r.split, dict(r.labels)) for r in Manifest.from_folder(flat)] == [("test", {}), ("train", {})]


@pytest.mark.parametrize(
    "names", [("a.mp4", "x/b.mp4"), ("x/a.mp4", "x/y/b.mp4"), ("p/q/a.mp4", "p/r/b.mp4"), ("a.mp4", "b.mp4")]
)
def test_other_folders_have_no_labels(tmp_path: Path, names: tuple[str, ...]) -> None:
    manifest = Manifest.from_folder(_touch(tmp_path, *names))
    assert manifest.label_names == ()
    with pytest.raises(DataError, match="no column 'label'"):
        manifest.labels()


def test_images_count_where_there_is_no_video(tmp_path: Path) -> None:
    _touch(tmp_path, "a/1.png", "b/2.jpg")
    assert len(Manifest.from_folder(tmp_path)) == 2
    _touch(tmp_path, "a/3.mp4")
    mixed = Manifest.from_folder(tmp_path)
    assert [r.path for r in mixed] == ["a/3.mp4"]
    assert "2 image files" in mixed.notices[0]
    assert len(Manifest.from_folder(tmp_path, kind="image")) == 2


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Manifest.from_folder(tmp_path / "absent")
    _touch(tmp_path, "a.txt", ".b.mp4")
    with pytest.raises(DataError, match=r"no video or image file.*1 other files, 1 hidden"):
        Manifest.from_folder(tmp_path)
    with pytest.raises(UsageError):
        Manifest.from_folder(tmp_path, kind="sound")


def test_open_takes_whatever_people_have(tmp_path: Path) -> None:
    _touch(tmp_path, "v/a.mp4", "w/b.mp4")
    folder = Manifest.open(tmp_path)
    assert Manifest.open(folder) is folder
    table = folder.to_csv(tmp_path / "manifest.csv")
    assert Manifest.open(str(table)) == folder
    assert Manifest.open(folder.to_parquet(tmp_path / "m.parquet")) == folder
    # a folder with a manifest in it is read from that
    folder.with_splits(["train", "test"]).to_csv(table)
    assert Manifest.open(tmp_path).splits == ("test", "train")
    paths = Manifest.open([tmp_path / "w" / "b.mp4", str(tmp_path / "v" / "a.mp4")])
    assert [r.path for r in paths] == ["w/b.mp4", "v/a.mp4"]
    assert paths.root == str(tmp_path)
    assert Manifest.open(tmp_path / "v" / "a.mp4").rows == (Row("a.mp4"),)
    for nothing in ([], [tmp_path / "absent.mp4"], tmp_path / "absent", tmp_path / "absent.csv"):
        with pytest.raises(DataError):
            Manifest.open(nothing)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        Manifest.open(3)  # type: ignore[arg-type]
    (tmp_path / "x.docx").write_text("?")
    with pytest.raises(UsageError, match="manifest"):
        Manifest.open(tmp_path / "x.docx")


# -------------------------------------------------------------------------------------------------------------- tables


def _table(folder: Path, text: str, name: str = "train.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_a_table_by_roles(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4", "b.mp4", "m.png")
    header = "path,start_s,end_s,split,label,label.verb,group,group.scene,file.mask\n"
    text = header + "a.mp4,1.5,2,train,x,go,p1,s1,m.png\nb.mp4,,,,,,,,\n"
    manifest = Manifest.from_csv(_table(tmp_path, text))
    assert manifest[0] == Row(
        "a.mp4", 1.5, 2.0, (), "train", {"label": "x", "verb": "go"}, {"group": "p1", "scene": "s1"}, {"mask": "m.png"}
    )
    assert manifest[1] == Row("b.mp4")
    assert manifest.labels("verb") == ["go", ""]
    assert manifest.groups("scene") == ["s1", ""]
    assert manifest.file(0, "mask") == tmp_path / "m.png"
    assert manifest.file(1, "mask") is None
    assert (manifest.label_names, manifest.group_names) == (("label", "verb"), ("group", "scene"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_dialects(tmp_path: Path, delimiter: str, newline: str, bom: str) -> None:
    _touch(tmp_path, "a, b.mp4", "c;d.mp4")
    lines = [["path", " split ", "label"], ['"a, b.mp4"', "train", " wave "], ['"c;d.mp4"', " test", "run"]]
    text = bom + newline.join(delimiter.join(cells) for cells in lines) + newline + newline
    manifest = Manifest.from_csv(_table(tmp_path, text))
    assert [(r.path, r.split, r.labels["label"]) for r in manifest] == [
        ("a, b.mp4", "train", "wave"),
        ("c;d.mp4", "test", "run"),
    ]
    assert any("1 labels or groups stripped" in n for n in manifest.notices)


def test_other_names_for_columns(tmp_path: Path) -> None:
    _touch(tmp_path, "a.mp4")
    path = _table(tmp_path, "clip,patient,age,label\na.mp4,p7,40,x\n")
    manifest = Manifest.from_csv(path, columns={"group": "patient"})
    assert manifest[0] == Row("a.mp4", labels={"label": "x"}, groups={"group": "p7"})
    text = "; ".join(manifest.notices)
    assert "'clip' read as path" in text
    assert "not used: age" in text
    mapped = Manifest.from_csv(path, columns={"path": "clip", "label.age": "age", "label": "patient"})
    assert mapped[0].labels == {"age": "40", "label": "p7"}
    two = _table(tmp_path, "clip,video\na.mp4,a.mp4\n", "two.csv")
    with pytest.raises(DataError, match="'clip' or 'video'"):
        Manifest.from_csv(two)
    with pytest.raises(DataError, match=r"no column 'patent'.*did you mean 'patient'"):
        Manifest.from_csv(path, columns={"group": "patent"})
    with pytest.raises(UsageError, match=r"unknown role 'labl'.*'label'"):
        Manifest.from_csv(path, columns={"labl": "label"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("path,label\n", "no rows"),
        (
            "path,label\na.mp4,x\nb, c.mp4,y\n",
            r"train\.csv:3: expected 2 fields, found 3 \(a comma in the path\? quote",
        ),
        ("path,label\na.mp4\n", r"train\.csv:2: expected 2 fields, found 1"),
        ("path,start_s\na.mp4,soon\n", r"train\.csv:2: start_s must be a number of seconds, found 'soon'"),
        ("path,start_s,end_s\na.mp4,2,1\n", r"train\.csv:2: the span ends at 1 s, not after"),
        ("path,start_s\na.mp4,-1\n", r"train\.csv:2: start_s"),
        ("path,start_s\na.mp4,inf\n", r"train\.csv:2: start_s"),
        ("path,label\n,x\n", r"train\.csv:2: a row needs a path"),
        ("path,frames\n,[1\n", r"train\.csv:2: frames is not a JSON list"),
        ("name,label\na.mp4,x\n", r"no column 'path'; could be 'name'\. Name the column of files: --path name"),
        ("name,label\na,x\n", r"no column 'path'; its columns are name, label"),
        ("path,path\na.mp4,x\n", "there twice"),
        ('path,label\n"a\nb.mp4",x\na.mp4\n', r"train\.csv:4: expected 2"),
    ],
)
def test_malformed_tables(tmp_path: Path, text: str, message: str) -> None:
    _touch(tmp_path, "a.mp4")
    with pytest.raises(DataError, match=message):
        Manifest.from_csv(_table(tmp_path, text))


def test_missing_files_are_named_before_the_start(tmp_path: Path) -> None:
    _touch(tmp_path, "here.mp4")
    names = "".join(f"gone{i}.mp4\n" for i in range(8))
    path = _table(tmp_path, "path\nhere.mp4\n" + names)
    with pytest.raises(
        DataError, match=r"8 of the files of 9 rows do not exist below .*'gone0\.mp4', 'gone1\.mp4'.* …"
    ):
        Manifest.from_csv(path)
    assert len(Manifest.from_csv(path, check=False)) == 9
    masks = _table(tmp_path, "path,file.mask\nhere.mp4,gone.png\n", "m.csv")
    with pytest.raises(DataError, match=r"gone\.png"):
        Manifest.from_csv(masks)


def test_another_root(tmp_path: Path) -> None:
    _touch(tmp_path, "videos/a.mp4", "lists/x.txt")
    path = _table(tmp_path / "lists", "path\na.mp4\n")
    with pytest.raises(DataError, match="root"):
        Manifest.from_csv(path)
    manifest = Manifest.from_csv(path, root=tmp_path / "videos")
    assert manifest.absolute(0) == tmp_path / "videos" / "a.mp4"
    # written elsewhere, it still finds its files
    again = Manifest.open(manifest.to_csv(tmp_path / "lists" / "copy.csv"))
    assert again[0].path == "../videos/a.mp4"
    assert os.path.samefile(again.absolute(0), manifest.absolute(0))


# --------------------------------------------------------------------------------------------------------- round trips

# Anything a file system or a person may come up with, but for NUL and lone surrogates, which Parquet cannot hold.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
NAME = st.text(string.ascii_lowercase + "_.0", min_size=1, max_size=6).filter(
    lambda n: n not in ("label", "group", "file")
)
VALUES = st.dictionaries(NAME, TEXT, max_size=3)
SECONDS = st.floats(0, 1e6, allow_nan=False)
FACTS = st.builds(
    VideoInfo,
    width=st.integers(1, 9999),
    height=st.integers(1, 9999),
    num_frames=st.integers(1, 10**9),
    duration_s=SECONDS,
    fps=SECONDS,
    codec=st.sampled_from(["h264", "vp9"]),
    start_s=st.floats(-10, 10),
    rotation=st.sampled_from([0, 90]),
    variable_frame_rate=st.booleans(),
    has_audio=st.booleans(),
    audio_rate_hz=st.integers(0, 192000),
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    start = draw(st.none() | SECONDS)
    length = draw(st.none() | st.floats(0.001, 1e6))
    end = None if length is None else (start or 0.0) + length
    # A path that is one relative name: what a root and a table's folder are joined with.
    path = draw(TEXT.filter(lambda p: p.strip("/. ") and not p.startswith("/")))
    return Row(
        path,
        start,
        end if end is None or end > (start or 0) else None,
        tuple(draw(st.lists(TEXT.filter(bool), max_size=3))),
        draw(TEXT),
        draw(VALUES) | draw(st.fixed_dictionaries({}, optional={"label": TEXT})),
        draw(VALUES) | draw(st.fixed_dictionaries({}, optional={"group": TEXT})),
        draw(VALUES),
        draw(st.none() | FACTS),
    )


@settings(max_examples=40)
@given(table=st.lists(rows(), min_size=1, max_size=5))
def test_round_trips_are_exact(tmp_path_factory: pytest.TempPathFactory, table: list[Row]) -> None:
    folder = tmp_path_factory.getbasetemp()
    manifest = Manifest(str(folder), tuple(table))
    assert Manifest.from_csv(manifest.to_csv(folder / "t.csv"), check=False) == manifest
    assert Manifest.from_parquet(manifest.to_parquet(folder / "t.parquet"), check=False) == manifest
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_every_awkward_character_survives(tmp_path: Path) -> None:
    awkward = [
        '"',
        '"a',
        'a"b',
        "a,b",
        "a;b",
        "a\tb",
        "a\rb",
        "a\nb",
        " a ",
        "é/ü",
        "[x]",
        "#",
        "a|b",
        "\ufeffa",
        "=1+1",
    ]
    manifest = Manifest(str(tmp_path), tuple(Row(p, labels={"label": p}, frames=(p,)) for p in awkward))
    assert Manifest.from_csv(manifest.to_csv(tmp_path / "t.csv"), check=False) == manifest
    assert Manifest.from_parquet(manifest.to_parquet(tmp_path / "t.parquet"), check=False) == manifest


def test_frames_in_a_table(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "b.png")
    manifest = Manifest.from_csv(_table(tmp_path, 'path,frames\n,a.png|b.png\n,"[""b.png"", ""a.png""]"\n'))
    assert [r.frames for r in manifest] == [("a.png", "b.png"), ("b.png", "a.png")]
    assert manifest.frame_paths(0) == (tmp_path / "a.png", tmp_path / "b.png")
    assert (manifest.relative(0), manifest.absolute(1)) == ("a.png", tmp_path / "b.png")
    assert manifest.sample_id(0) != manifest.sample_id(1)
    assert Manifest.open(manifest.to_csv(tmp_path / "again.csv")) == manifest


def test_an_interrupted_write_keeps_the_old_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _touch(tmp_path, "a.mp4")
    manifest = Manifest.from_folder(tmp_path)
    path = manifest.to_csv(tmp_path / "m.csv")
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("unreel.data.manifest.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        manifest.with_splits(["train"]).to_csv(path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "m.csv"]


# ---------------------------------------------------------------------------------------------------- ids and digests


def test_sample_ids_depend_on_the_row_alone(tmp_path: Path) -> None:
    a, b = Row("a.mp4"), Row("a.mp4", 1.0, 2.0)
    one = Manifest(str(tmp_path / "x"), (a, b))
    two = Manifest(str(tmp_path / "y"), (Row("z.mp4"), b, replace(a, split="test", labels={"label": "q"})))
    assert one.sample_id(0) == two.sample_id(2)
    assert one.sample_id(1) == two.sample_id(1)
    ids = {one.sample_id(0), one.sample_id(1), two.sample_id(0)}
    assert len(ids) == 3
    assert all(0 <= i < 1 << 63 for i in ids)
    assert one.sample_id(0) == 7189308092377765616  # frozen: a run resumed after an upgrade draws the same


def test_group_ids() -> None:
    rows_ = (Row("a", groups={"group": "p"}), Row("b", groups={"group": "p", "scene": "s"}), Row("c"))
    manifest = Manifest("/x", rows_)
    assert manifest.group_id(0) == manifest.group_id(1) != manifest.group_id(2)
    assert manifest.group_id(2) == manifest.sample_id(2)
    assert manifest.group_id(0, "scene") == manifest.sample_id(0)


def test_digest_follows_the_data_and_not_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _touch(tmp_path / name, "k/a.mp4", "k/b.mp4")
    one, two = Manifest.from_folder(tmp_path / "one"), Manifest.from_folder(tmp_path / "two")
    assert one.digest == two.digest == one.with_facts([None, VideoInfo(1, 1, 1, 1, 1, "h")]).digest
    assert one.digest != one.with_splits(["train", "test"]).digest
    assert one.digest != one.subset([1, 0]).digest
    (tmp_path / "two" / "k" / "b.mp4").write_bytes(b"k/X.mp4")
    assert Manifest.from_folder(tmp_path / "two").digest != one.digest
    large = tmp_path / "two" / "k" / "b.mp4"
    content = bytearray(300_000)
    large.write_bytes(content)
    before = Manifest.from_folder(tmp_path / "two")
    quick, full = before.digest, before.digest_of(before.fingerprints(full=True))
    content[150_000] = 1  # in the middle, where only a look at every byte sees it
    large.write_bytes(content)
    after = Manifest.from_folder(tmp_path / "two")
    assert after.digest == quick
    assert after.digest_of(after.fingerprints(full=True)) != full
    (tmp_path / "one" / "k" / "a.mp4").unlink()
    with pytest.raises(DataError, match=r"a\.mp4"):
        _ = replace(one).digest


# --------------------------------------------------------------------------------------------------------- choosing


def _sample() -> Manifest:
    return Manifest(
        "/r",
        (
            Row("a", split="train", labels={"label": "x"}, groups={"group": "p1"}),
            Row("b", split="train", labels={"label": "y"}, groups={"group": "p2"}),
            Row("c", split="test", labels={"label": "x", "verb": "go"}, groups={"group": "p1"}),
            Row("a", 1.0, 2.0, split="val", groups={"group": "p3"}),
            Row("d"),
        ),
    )


def test_select_and_subset() -> None:
    manifest = _sample()
    assert [r.path for r in manifest.select(split="train")] == ["a", "b"]
    assert [r.path for r in manifest.select(split=("test", "val"))] == ["c", "a"]
    assert [r.path for r in manifest.select(where={"label": "x"})] == ["a", "c"]
    assert [r.path for r in manifest.select(split="train", where={"label": ["x", "z"], "group": "p1"})] == ["a"]
    assert [r.path for r in manifest.select(where=lambda r: r.start_s is not None)] == ["a"]
    assert [r.path for r in manifest.subset([4, 0, 0])] == ["d", "a", "a"]
    with pytest.raises(DataError, match=r"'tset'.*test 1, train 2, val 1, without a split 1"):
        manifest.select(split="tset")
    with pytest.raises(DataError, match="no row of 5"):
        manifest.select(where={"label.verb": "stay"})
    with pytest.raises(UsageError, match="no column 'colour'"):
        manifest.select(where={"colour": "red"})
    with pytest.raises(DataError, match=r"label\.verbs.*label, label\.verb"):
        manifest.labels("verbs")
    for call in (manifest.with_splits, manifest.with_facts):
        with pytest.raises(UsageError):
            call([])  # type: ignore[operator]


def test_immutable() -> None:
    manifest = _sample()
    for name in ("root", "rows"):
        with pytest.raises(AttributeError):
            setattr(manifest, name, ())
    with pytest.raises(AttributeError):
        manifest[0].split = "x"  # type: ignore[misc]
