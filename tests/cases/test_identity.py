"""Two files with one name, one size and equal ends are two files, whatever keeps what was computed from them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import unreel
from unreel.cli.main import main
from unreel.core.digests import mapping_digest
from unreel.core.errors import DataError
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.data.sidecars import find_tables, open_table, require
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder
from unreel.tasks.finetune import FineTune
from unreel.tasks.trained import Examples

EDGE = 64 * 1024
PLAN = ClipPlan(num_frames=4, stride=1, num_clips=1, num_crops=1, size_px=16, short_side_px=16)
QUIET: dict[str, Any] = {"clips": PLAN, "progress": False}


def frames(level: int, *, number: int = 10, side: int = 160) -> NDArray[np.uint8]:
    """Black frames (number, side, side); those in the middle flicker at a level."""
    pixels = np.zeros((number, side, side), np.uint8)
    pixels[number // 2 - 2 : number // 2 + 2 : 2] = level
    return pixels


def picture(level: int) -> NDArray[np.uint8]:
    pixels = np.zeros((480, 480), np.uint8)
    pixels[160:320] = level
    return pixels


def write_y4m(path: Path, level: int) -> None:
    grey = np.full(160 * 160 // 2, 128, np.uint8).tobytes()
    parts = [b"FRAME\n" + frame.tobytes() + grey for frame in frames(level)]
    path.write_bytes(b"YUV4MPEG2 W160 H160 F8:1 Ip A1:1 C420jpeg\n" + b"".join(parts))


def write_avi(path: Path, level: int) -> None:
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("rawvideo", rate=8)
        stream.width, stream.height, stream.pix_fmt = 160, 160, "yuv420p"
        for pixels in frames(level):
            frame = av.VideoFrame.from_ndarray(np.repeat(pixels[..., None], 3, 2), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def write_picture(path: Path, level: int) -> None:
    pixels = picture(level)
    Image.fromarray(pixels if path.suffix == ".pgm" else np.repeat(pixels[..., None], 3, 2)).save(path)


def write_folder(path: Path, level: int) -> None:
    path.mkdir()
    for number in range(4):
        write_picture(path / f"{number:03}.pgm", level)


WRITERS: dict[str, Callable[[Path, int], None]] = {
    **dict.fromkeys((".pgm", ".ppm", ".bmp", ".tif"), write_picture),
    ".y4m": write_y4m,
    ".avi": write_avi,
}


def twins(folder: Path, suffix: str, *, number: int = 1) -> Path:
    """``ill/000…`` and ``well/000…``: files equal in name, size, both ends and time, other in their middle."""
    for label, level in (("ill", 250), ("well", 120)):
        (folder / label).mkdir(parents=True)
        for i in range(number):
            file = folder / label / f"{i:03}{suffix}"
            WRITERS[suffix](file, level - 3 * i)
            os.utime(file, (1, 1))
    one, two = ((folder / label / f"000{suffix}").read_bytes() for label in ("ill", "well"))
    assert len(one) == len(two) > 2 * EDGE
    assert (one[:EDGE], one[-EDGE:]) == (two[:EDGE], two[-EDGE:])
    assert one != two
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = create_encoder("r3d_tiny", seed=0)
    net.input_spec = replace(net.input_spec, num_frames=4, stride_frames=1, size_px=16)
    return save_encoder(net, tmp_path_factory.mktemp("net") / "e.safetensors")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def vectors(encoder: Path, data: Any, **options: Any) -> NDArray[np.float32]:
    return unreel.embed(encoder, data, **QUIET, **options).vectors


def same(found: Any, right: Any) -> None:
    """Equal but for the rounding of another batch size."""
    np.testing.assert_allclose(found, right, atol=1e-5)


@pytest.mark.parametrize("suffix", WRITERS)
def test_each_file_has_its_own_features_and_its_own_search(
    suffix: str, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = twins(tmp_path / "data", suffix)
    apart = [vectors(encoder, [data / label / f"000{suffix}"])[0] for label in ("ill", "well")]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
    same(vectors(encoder, data), apart)
    # One store for several data sets, whose paths below their roots are the same.
    for _ in range(2):
        for label, right in zip(("ill", "well"), apart, strict=True):
            same(vectors(encoder, data / label, store=tmp_path / "store"), [right])
    assert main(["search", str(encoder), str(data), str(data / "ill" / f"000{suffix}"), "--json", "--quiet"]) == 0
    hits = json.loads(capsys.readouterr().out)["results"]
    assert [Path(hit["path"]).parent.name for hit in hits] == ["well"]


def test_neighbours_are_not_given_away_by_names(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = twins(tmp_path / "data", ".pgm", number=8)
    call = ["evaluate", str(encoder), str(data), "--protocol", "knn", "--json", "--quiet"]
    assert main(call) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert next(s["value"] for s in scores if s["encoder"] == "encoder") == 1.0


def test_the_query_is_the_file_itself_by_whatever_name(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = twins(tmp_path / "data", ".pgm")
    query = data / "ill" / "000.pgm"
    (tmp_path / "link.pgm").symlink_to(query)
    (tmp_path / "folder").symlink_to(data)
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copy2(query, tmp_path / "elsewhere" / "000.pgm"))
    monkeypatch.chdir(data)

    def found(gallery: Path, asked: str | Path) -> list[str]:
        assert main(["search", str(encoder), str(gallery), str(asked), "--json", "--quiet"]) == 0
        return [Path(h["path"]).parent.name for h in json.loads(capsys.readouterr().out)["results"]]

    for same in (query, "ill/000.pgm", "../data/ill/./000.pgm", tmp_path / "link.pgm", tmp_path / "folder/ill/000.pgm"):
        assert found(data, same) == ["well"], same
    assert found(tmp_path / "folder", query) == ["well"]
    assert found(data, copy) == ["ill", "well"]  # a copy is another file, and the first to be found
    # Of one file two spans are two sources; a file that is named as a whole or from its beginning is one.
    write_y4m(tmp_path / "v.y4m", 200)
    table = tmp_path / "spans.csv"
    table.write_text("path,start_s,end_s\nv.y4m,0,\nv.y4m,0,0.6\nv.y4m,0.6,1.2\n")
    assert len(found(table, tmp_path / "v.y4m")) == 2
    assert main(["search", str(encoder), str(table), str(tmp_path / "v.y4m"), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "v.y4m, 0 s to 0.6 s\n" in out
    assert "v.y4m, 0.6 s to 1.2 s\n" in out


def test_a_file_that_was_replaced_is_another(encoder: Path, tmp_path: Path) -> None:
    """Its size, ends and time of change are those of the old one."""
    data, store = twins(tmp_path / "data", ".pgm"), tmp_path / "store"
    before = vectors(encoder, data, store=store)
    other = Path(shutil.copy2(data / "well" / "000.pgm", tmp_path / "other.pgm"))
    os.replace(other, data / "ill" / "000.pgm")
    after = vectors(encoder, data, store=store)
    same(after, [before[1], before[1]])
    # Frames of a folder, and of a list of frames, count one by one.
    write_folder(tmp_path / "frames", 250)
    names = [str(tmp_path / "frames" / f"{i:03}.pgm") for i in range(4)]
    rows = [{"path": str(tmp_path / "frames")}, {"path": "", "frames": "|".join(names)}]
    table = tmp_path / "frames.csv"
    table.write_text("path,frames\n" + "".join(f"{row['path']},{row.get('frames', '')}\n" for row in rows))
    before = vectors(encoder, table, store=store)
    write_picture(tmp_path / "frames" / "002.pgm", 120)
    os.utime(tmp_path / "frames" / "002.pgm", (1, 1))
    after = vectors(encoder, table, store=store)
    same(after, vectors(encoder, table))
    assert (np.abs(after - before).max(1) > 1e-3).all()


def test_a_file_in_two_parts_under_two_names_is_a_leak(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = twins(tmp_path / "data", ".pgm", number=3)
    (data / "again.pgm").symlink_to(data / "ill" / "000.pgm")
    rows = [(f"{label}/{i:03}.pgm", label, ("train", "test")[i == 2]) for label in ("ill", "well") for i in range(3)]
    table = data / "m.csv"
    for extra, code in (((), 0), ((("again.pgm", "ill", "test"),), 1)):
        table.write_text("path,label,split\n" + "".join(f"{','.join(row)}\n" for row in (*rows, *extra)))
        assert main(["evaluate", str(encoder), str(table), "--protocol", "knn", "--quiet"]) == code
    assert "1 files are in more than one part: ill/000.pgm (test and train)" in capsys.readouterr().err


def test_fine_tuning_of_two_data_sets_has_two_folders(tmp_path: Path) -> None:
    """Both have the same table and the same fingerprint: a checkpoint of one must not be taken for the other's."""
    data, encoder = twins(tmp_path / "data", ".pgm"), create_encoder("r3d_tiny", seed=0)
    rows = (Row("000.pgm", labels={"label": "a"}),)
    parts = [Examples(Manifest(str(data / name), rows), "label", np.array(["g"])) for name in ("ill", "well", "ill")]
    assert len({part.manifest.digest for part in parts}) == 1
    found = [mapping_digest(FineTune()._identity(encoder, part, None, PLAN, 0)) for part in parts]
    assert found[0] == found[2] != found[1]


def test_facts_of_two_data_sets_lie_in_one_folder(encoder: Path, tmp_path: Path) -> None:
    data, together = twins(tmp_path / "data", ".y4m"), tmp_path / "together"
    annotate = ["data", "annotate", "motion_energy"]
    roots = [data / "ill", data / "well"]
    means = []
    for root in (*roots, *roots):
        assert main([*annotate, str(root), "--out", str(together), "--workers", "0", "--quiet"]) == 0
    for root in roots:
        assert main([*annotate, str(root), "--workers", "0", "--quiet"]) == 0  # its own table, in the cache
        manifest = Manifest.open(root)
        (own,) = require(["motion_energy"], manifest).values()
        (shared,) = require(["motion_energy"], manifest, folder=together).values()
        assert own.value(0) == shared.value(0)
        means.append(own.value(0)["mean"])
    assert means[0] > 1.5 * means[1] > 0


def test_masks_of_two_data_sets_lie_in_one_folder(encoder: Path, tmp_path: Path) -> None:
    data = twins(tmp_path / "data", ".pgm", number=2)
    roots = [data / "ill", data / "well"]
    masks: dict[str, list[bytes]] = {}
    for name, outs in (("shared", [tmp_path / "together"] * 2), ("own", [root / "sidecars" for root in roots])):
        for root, out in zip(roots, outs, strict=True):
            call = ["data", "annotate", "masks", str(root), "--encoder", str(encoder), "--out", str(out)]
            assert main([*call, "--workers", "0", "--batch-size", "2", "--cam.expand_resolution", "4", "--quiet"]) == 0
        for root, out in zip(roots, outs, strict=True):
            manifest = Manifest.open(root)
            (table,) = out.glob("masks-*.parquet")
            sidecar = open_table(table, manifest, "masks")
            masks.setdefault(name, []).extend(
                (out / sidecar.value(i)["file"]).read_bytes() for i in range(len(manifest))
            )
    assert masks["shared"] == masks["own"]
    assert len(find_tables("masks", Manifest.open(roots[0]))) == 1


def test_facts_beside_the_data_move_with_it_and_not_to_other_files(tmp_path: Path) -> None:
    data = twins(tmp_path / "data", ".y4m")
    call = ["data", "annotate", "motion_energy"]
    assert main([*call, str(data), "--out", str(data / "sidecars"), "--workers", "0", "--quiet"]) == 0
    right = [require(["motion_energy"], Manifest.open(data))["motion_energy"].value(i) for i in range(2)]
    assert right[0] != right[1]
    moved = data.rename(tmp_path / "moved")
    copied = Path(shutil.copytree(moved, tmp_path / "copied", copy_function=shutil.copyfile))  # with the times of now
    for root in (moved, copied):
        assert [require(["motion_energy"], Manifest.open(root))["motion_energy"].value(i) for i in range(2)] == right
    os.replace(copied / "well" / "000.y4m", copied / "ill" / "000.y4m")
    shutil.copy2(copied / "ill" / "000.y4m", copied / "well" / "000.y4m")
    swapped = require(["motion_energy"], Manifest.open(copied))["motion_energy"]
    assert [swapped.value(i) for i in range(2)] == [right[1], right[1]]
    write_y4m(moved / "ill" / "000.y4m", 60)
    os.utime(moved / "ill" / "000.y4m", (1, 1))
    with pytest.raises(DataError, match=r"missing for 1 of 2 .*first: ill/000\.y4m"):
        require(["motion_energy"], Manifest.open(moved))


def test_the_files_of_the_case(encoder: Path, shared_cases: Path, tmp_path: Path) -> None:
    folder = shared_cases / "same_name_and_edges"
    apart = [vectors(encoder, [folder / label / "000.pgm"])[0] for label in ("ill", "well")]
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
    for label, right in zip(("ill", "well"), apart, strict=True):
        same(vectors(encoder, folder / label, store=tmp_path / "store"), [right])
