"""Places that cannot be written: every command says so first, leaves nothing broken, loses nothing good."""

from __future__ import annotations

import builtins
import errno
import io
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.core.files import claimed
from unreel.data.synthetic import ActionWorld
from unreel.media import encode_image
from unreel.nn import create_encoder, save_encoder

SMALL = [
    *("--encoder.name", "r3d_tiny", "--size", "32", "--clip_frames", "4", "--hidden-dim", "16"),
    *("--train.steps", "3", "--train.warmup_epochs=0", "--train.batch_size", "4", "--train.workers", "0"),
    *("--train.device", "cpu", "--train.checkpoint_every", "1"),
]

# What each command writes: its last argument's place. None of them may begin its work, which fails where it is met.
FILES: dict[str, tuple[list[str], str]] = {
    "embed npz": (["embed", "RUN", "DATA", "--out", "OUT/a.npz"], "unreel.api.embed"),
    "embed parquet": (["embed", "RUN", "DATA", "--out", "OUT/a.parquet"], "unreel.api.embed"),
    "index csv": (["data", "index", "DATA", "--out", "OUT/a.csv"], "unreel.recipes.index.probe_all"),
    "index parquet": (["data", "index", "DATA", "--out", "OUT/a.parquet"], "unreel.recipes.index.probe_all"),
    "evaluate": (["evaluate", "ENCODER", "DATA", "--label", "motion", "--out", "OUT/a.json"], "unreel.api.evaluate"),
    "prepare": (["data", "prepare", "ucf101", "DATA", "--out", "OUT/a.csv"], "unreel.data.layouts.read_layout"),
    "export": (["export", "ENCODER", "--format", "torchvision", "--out", "OUT/a.pth"], "unreel.api.load_encoder"),
}  # fmt: skip
FOLDERS: dict[str, tuple[list[str], str]] = {
    "pretrain": (["pretrain", "DATA", *SMALL, "--out", "OUT"], "unreel.recipes.build.prepare"),
    "pretrain, dry": (["pretrain", "DATA", *SMALL, "--dry-run", "--out", "OUT"], "unreel.recipes.build.prepare"),
    "synth": (["data", "synth", "--train", "2", "--out", "OUT"], "unreel.data.synthetic.ActionWorld.write"),
    "annotate": (["data", "annotate", "motion_energy", "DATA", "--out", "OUT"], "unreel.recipes.maps.compute"),
    "explain": (["explain", "ENCODER", "DATA", "--out", "OUT"], "unreel.recipes.maps.load_cam_nets"),
    "demo": (["demo", "--tiny", "--out", "OUT"], "unreel.cli.demo.run_demo"),
    "evaluate, scores": (["evaluate", "RUN", "DATA", "--label", "motion"], "unreel.api.evaluate"),
    "evaluate, work": (
        ["evaluate", "ENCODER", "DATA", "--label", "motion", "--protocol", "finetune", "--work", "OUT"],
        "unreel.tasks.evaluate.controls",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a finished run as scoring needs."""
    folder = tmp_path_factory.mktemp("disks") / "run"
    save_encoder(create_encoder("r3d_tiny"), folder / "encoder.safetensors")
    (folder / "config.yaml").write_text("method:\n  name: cvrl\n")
    return folder


def call(arguments: list[str], run: Path, data: Path, out: Path) -> int:
    places = {"RUN": run, "ENCODER": run / "encoder.safetensors", "DATA": data / "manifest.csv", "OUT": out}
    words = [w.replace("OUT", str(out)) if w.startswith("OUT") else str(places.get(w, w)) for w in arguments]
    return main([*words, "--quiet"])


def listing(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def states(folder: Path) -> dict[str, tuple[int, int, int]]:
    found = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (facts.st_ino, facts.st_size, facts.st_mtime_ns) for name, facts in found.items()}


def no_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command must not have begun."""
    module, _, function = name.rpartition(".")
    owner = import_module(module) if module != "unreel.data.synthetic.ActionWorld" else ActionWorld
    monkeypatch.setattr(owner, function, lambda *_, **__: pytest.fail(f"{name} was called"))


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A real limit of the system's: the write that passes it fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Every system call that would change something below ``folder`` fails, as on a disk mounted read-only."""

    def guarded(name: str, function: Any, changes: Any) -> Any:
        def call(path: Any, *args: Any, **options: Any) -> Any:
            below = isinstance(path, str | os.PathLike) and str(path).startswith(str(folder))
            if below and changes(*args, **options):
                raise OSError(errno.EROFS, "Read-only file system", str(path))
            return function(path, *args, **options)

        return call

    def writes(mode: str = "r", *_: Any, **options: Any) -> bool:
        return bool(set(options.get("mode", mode)) & set("wax+"))

    with pytest.MonkeyPatch.context() as patch:
        for module in (builtins, io):
            patch.setattr(module, "open", guarded("open", builtins.open, writes))
        patch.setattr(
            os, "open", guarded("open", os.open, lambda flags, *_, **__: bool(flags & (os.O_WRONLY | os.O_RDWR)))
        )
        for name in ("mkdir", "replace", "unlink", "rename"):
            patch.setattr(os, name, guarded(name, getattr(os, name), lambda *_, **__: True))
        yield


@pytest.mark.parametrize("state", ["full", "read-only", "a folder", "below a file"])
@pytest.mark.parametrize("command", FILES)
def test_a_file_that_cannot_be_written_is_said_first(
    command: str, state: str, run: Path, tiny_world: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments, work = FILES[command]
    no_work(work, monkeypatch)
    name = Path(arguments[-1]).name
    out = tmp_path / "out"
    if state == "below a file":
        out.write_text("in the way")
    elif state == "a folder":
        (out / name).mkdir(parents=True)
    else:
        out.mkdir()
        (out / name).write_text("good")
    before = listing(tmp_path)
    reasons = {
        "full": (no_file_longer_than(0), "file too large; lift the limit"),
        "read-only": (read_only(out), "read-only file system; choose another place"),
        "a folder": (read_only(tmp_path / "none"), "it is a folder, and a file is expected"),
        "below a file": (read_only(tmp_path / "none"), "is a file, not a folder; choose another place"),
    }
    condition, reason = reasons[state]
    with condition:
        code = call(arguments, run, tiny_world, out)
    err = capsys.readouterr().err
    assert f"{out / name} cannot be written: " in err
    assert reason in err
    assert code == 1
    assert listing(tmp_path) == before


@pytest.mark.parametrize("state", ["full", "read-only", "a file", "below a file"])
@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_cannot_be_written_is_said_first(
    command: str, state: str, run: Path, tiny_world: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments, work = FOLDERS[command]
    no_work(work, monkeypatch)
    out = tmp_path / "out"
    if command == "evaluate, scores":  # its place is the run's
        for file in run.iterdir():
            if file.is_file():
                (tmp_path / "run").mkdir(exist_ok=True)
                (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
        run, out = tmp_path / "run", tmp_path / "run" / "scores"
        if state == "below a file":
            pytest.skip("a run is a folder")
    if state == "below a file":
        out.write_text("in the way")
        out = out / "deeper"
    elif state == "a file":
        out.write_text("in the way")
    before = listing(tmp_path)
    reasons = {
        "full": (no_file_longer_than(0), "file too large; lift the limit"),
        "read-only": (read_only(tmp_path), "read-only file system; choose another place"),
        "a file": (read_only(tmp_path / "none"), "it is a file, and a folder is expected"),
        "below a file": (read_only(tmp_path / "none"), "is a file, not a folder; choose another place"),
    }
    condition, reason = reasons[state]
    with condition:
        code = call(arguments, run, tiny_world, out)
    err = capsys.readouterr().err
    assert f"{out} cannot be written: " in err
    assert reason in err
    assert code == 1
    assert listing(tmp_path) == before


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_a_disk_that_fills_up_loses_no_embeddings(
    suffix: str, run: Path, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"a.{suffix}"
    arguments = ["embed", "ENCODER", "DATA", "--label", "motion", "--out", "OUT"]
    assert call(arguments, run, tiny_world, out) == 0
    before = listing(tmp_path)
    with no_file_longer_than(8192):
        assert call(arguments, run, tiny_world, out) == 1
    assert f"unreel: {out} cannot be written: file too large" in capsys.readouterr().err
    assert listing(tmp_path) == before


def test_a_disk_that_fills_up_loses_no_step(
    run: Path, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unreel.report.html.write_report", lambda *_: None)  # slow to draw
    arguments = ["pretrain", "DATA", *SMALL, "--train.stop_after", "2", "--out", "OUT"]
    out = tmp_path / "run"
    assert call(arguments, run, tiny_world, out) == 0
    before = listing(out / "checkpoints")
    assert len(before) == 2
    arguments = ["pretrain", "DATA", *SMALL, "--out", "OUT"]
    with no_file_longer_than(60_000):  # enough for the settings and the records, not for a checkpoint
        assert call(arguments, run, tiny_world, out) == 1
    assert f"{out / 'checkpoints' / 'step-000000003.pt'} cannot be written: file too large" in capsys.readouterr().err
    assert listing(out / "checkpoints") == before
    assert not (out / "encoder.safetensors").exists()
    assert call(arguments, run, tiny_world, out) == 0  # and goes on
    assert (out / "encoder.safetensors").exists()


def test_every_file_of_a_run_has_the_usual_mode(run: Path, tiny_world: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert call(["pretrain", "DATA", *SMALL, "--out", "OUT"], run, tiny_world, tmp_path / "run") == 0
        save_encoder(create_encoder("r3d_tiny"), tmp_path / "mine.safetensors")
    finally:
        os.umask(before)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {"encoder.safetensors", "config.yaml", "report.html", "mine.safetensors"} <= {p.name for p in files}
    assert {(p.name, oct(stat.S_IMODE(p.stat().st_mode))) for p in files} == {(p.name, "0o640") for p in files}


def test_a_finished_run_on_a_read_only_disk_comes_back(
    run: Path, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pretrain", "DATA", *SMALL, "--out", "OUT"]
    assert call(arguments, run, tiny_world, tmp_path / "run") == 0
    before = listing(tmp_path)
    with read_only(tmp_path):
        assert call(arguments, run, tiny_world, tmp_path / "run") == 0
    assert listing(tmp_path) == before
    assert "loss" in capsys.readouterr().out


@pytest.mark.parametrize("command", [name for name in FOLDERS if not name.startswith("evaluate")])
def test_a_second_process_says_who_works_in_the_folder_and_touches_nothing(
    command: str, run: Path, tiny_world: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    arguments, work = FOLDERS[command]
    no_work(work, monkeypatch)
    out = tmp_path / "out"
    with claimed(out):
        (out / "a.txt").write_text("theirs")
        before = states(out)
        assert call(arguments, run, tiny_world, out) == 1
        err = capsys.readouterr().err
        assert f"unreel: {out}: another process works in this folder (process {os.getpid()} on " in err
        assert "since 20" in err
        assert states(out) == before
    assert os.listdir(out) == ["a.txt"]


def test_two_that_train_at_once_are_told_apart_late_too(run: Path, tiny_world: Path, tmp_path: Path) -> None:
    """The other one came while this one was looking through its data."""
    from unreel import api
    from unreel.core.files import BusyError
    from unreel.recipes.build import prepare

    out = tmp_path / "run"
    sections: dict[str, Any] = {"encoder": {"name": "r3d_tiny"}, "size": 32, "clip_frames": 4, "hidden_dim": 16}
    train = {"steps": 2, "warmup_epochs": 0, "batch_size": 4, "workers": 0, "device": "cpu"}
    prepared = prepare("cvrl", tiny_world, call={**sections, "train": train})
    with claimed(out), pytest.raises(BusyError, match="another process works in this folder"):
        api.run_prepared(prepared, out=out)
    assert os.listdir(out) == []


def test_a_full_output_is_said(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["models", "r3d_tiny"]) == 1
        monkeypatch.undo()
    assert "the output cannot be written: no space left on device" in capsys.readouterr().err


def test_a_picture_of_a_map_is_written_whole(tmp_path: Path) -> None:
    """What is written into an archive or through an encoder meets a full disk as any other file does."""
    from unreel.core.files import WriteError, write_arrays, write_whole
    from unreel.media.write import write_video

    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), dtype=np.uint8)
    writers = {
        "a.npz": lambda path: write_arrays(path, {"a": noise}),
        "b.npz": lambda path: write_arrays(path, {"a": noise}, compressed=True),
        "c.png": lambda path: write_whole(path, encode_image(noise[0])),
        **{f"d.{suffix}": lambda path: write_video(path, noise, 8) for suffix in ("mp4", "mkv", "avi", "mov", "ts")},
    }
    for name, write in writers.items():
        write(tmp_path / name)
        before = listing(tmp_path)
        with no_file_longer_than(4096), pytest.raises(WriteError, match=f"{name} cannot be written: file too large"):
            write(tmp_path / name)
        assert listing(tmp_path) == before, name
