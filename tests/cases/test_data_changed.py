"""A run that goes on after its data have changed: what changed is said, and what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unreel.cli.main import main
from unreel.data import record as records
from unreel.data.record import DataRecord

NAMES = [f"{label}/{name}.bmp" for label in ("cat", "dog") for name in ("Ada", "Ben", "Cem", "Dee")]


def picture(file: Path, seed: int) -> None:
    """Uncompressed and of one size; the first and last 64 KiB are black in all."""
    pixels = np.zeros((300, 300, 3), np.uint8)
    pixels[140:160] = np.random.default_rng(seed).integers(0, 255, (20, 300, 3))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        picture(tmp_path / "data" / name, i)
    return tmp_path / "data"


def pretrain(data: Path, out: Path, *more: str) -> int:
    small = ["--method", "simclr", "--encoder", "resnet_18", "--encoder.width", "4", "--size", "16"]
    small += ["--hidden_dim", "8", "--out_dim", "4", "--train.batch_size", "4", "--train.workers", "0"]
    return main(["pretrain", str(data), "--out", str(out), *small, "--train.steps", "1", "--quiet", *more])


def add(data: Path) -> str:
    picture(data / "owl" / "Eda.bmp", 8)
    return "1 file added: owl/Eda.bmp (8 files in 8 rows then, 9 files in 9 rows now)"


def remove(data: Path) -> str:
    (data / NAMES[0]).unlink()
    (data / NAMES[5]).unlink()
    return f"2 files removed: {NAMES[0]}, {NAMES[5]} (8 files in 8 rows then, 6 files in 6 rows now)"


def change(data: Path) -> str:
    Image.new("RGB", (300, 300), "red").save(data / NAMES[1])
    return f"1 file changed: {NAMES[1]} (8 files"


def rename(data: Path) -> str:
    (data / NAMES[0]).rename(data / "cat" / "Zoe.bmp")
    return f"1 file added: cat/Zoe.bmp; 1 file removed: {NAMES[0]} (8 files"


@pytest.mark.parametrize("finished", [True, False])
def test_files(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: bool) -> None:
    more = [] if finished else ["--train.steps", "2", "--train.stop_after", "1"]
    assert pretrain(data, tmp_path / "run", *more) == 0
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    for alter in (add, remove, change, rename):
        kept = Path(shutil.copytree(data, tmp_path / "kept"))
        told = alter(data)
        capsys.readouterr()
        assert pretrain(data, tmp_path / "run", *more) == (0 if finished else 1)
        err = capsys.readouterr().err
        if finished:
            assert "the run is finished and stays as it is, but its data have changed since it began: " in err
        else:
            assert "run holds a run that cannot go on, because its data have changed since it began: " in err
            assert "Put the data back as they were, or choose another directory (--out)" in err
        assert told in err
        assert "--continue" in err
        assert {file: file.stat().st_mtime_ns for file in before} == before
        shutil.rmtree(data)
        kept.rename(data)
    assert pretrain(data, tmp_path / "run", *more) == 0


def test_tables_and_settings(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = data / "m.csv"
    rows = [f"{name},{name[:3]}" for name in NAMES]

    def attempt(lines: list[str], *more: str) -> tuple[int, str]:
        table.write_text("path,label\n" + "\n".join(lines) + "\n")
        capsys.readouterr()
        return pretrain(table, tmp_path / "run", *more), capsys.readouterr().err

    assert attempt(rows)[0] == 0
    code, err = attempt([rows[0].replace(",cat", ",dog"), *rows[1:]])
    assert code == 0
    assert f"1 row given other columns: {NAMES[0]} (8 files" in err
    assert "the rows are in another order" in attempt(rows[::-1])[1]
    assert "8 files in 9 rows now" in attempt([*rows, rows[0]])[1]
    code, err = attempt(rows[1:], "--train.seed", "7")
    assert code == 2
    assert "train.seed was 0, is 7; and its data have changed since it began: 1 file removed" in err
    code, err = attempt(rows, "--train.seed", "7")
    assert code == 2
    assert "data have changed" not in err
    # A longer list than can be kept, and a run of an unreel that kept none.
    (tmp_path / "run" / records.FILE_NAME).unlink()
    code, err = attempt(rows[1:])
    assert code == 0
    assert "which files, it did not keep" in err


def test_what_may_have_changed_unseen(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(data, tmp_path / "run") == 0
    assert pretrain(data, tmp_path / "run") == 0
    assert capsys.readouterr().err == ""
    picture(data / NAMES[2], 99)  # in its middle alone
    assert pretrain(data, tmp_path / "run") == 0
    assert f"warning: 1 file of the data were written or touched since the run began ({NAMES[2]})" in (
        capsys.readouterr().err
    )
    moved = data.rename(tmp_path / "moved")
    assert pretrain(moved, tmp_path / "run") == 0
    err = capsys.readouterr().err
    assert f"the data lie below {os.path.realpath(moved)}, and lay below {os.path.realpath(data)} when" in err


def test_large_data_are_counted_only(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unreel.data.manifest import Manifest

    monkeypatch.setattr(records, "_MOST", 7)
    before = DataRecord.of(Manifest.open(data))
    assert (before.num_files, before.files, before.rows) == (8, {}, {})
    before.write(tmp_path)
    assert (tmp_path / records.FILE_NAME).stat().st_size < 400
    add(data)
    after = DataRecord.of(Manifest.open(data))
    assert after.digest == Manifest.open(data).digest
    assert "8 files in 8 rows then, 9 files in 9 rows now; more than 7" in after.changes_since(tmp_path)
