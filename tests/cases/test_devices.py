"""Where commands compute: the best device by default, the one asked for, and a plain no; a second CPU plays the GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unreel.cli.main import main
from unreel.core import devices
from unreel.nn import Encoder, create_encoder, save_encoder
from unreel.protocols import features
from unreel.recipes import maps

OTHER = torch.device("cpu", 0)  # torch tells it from plain "cpu": moves to it and back are seen


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    net = create_encoder("r3d_tiny", channels=(4, 4, 4, 4), stem_channels=4, seed=0)
    net.input_spec = type(net.input_spec)(num_frames=4, size_px=32)
    return save_encoder(net, tmp_path / "encoder.safetensors")


@pytest.fixture
def moves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine whose best device is ``OTHER``; where encoders were sent."""
    seen: list[str] = []
    to = Encoder.to

    def record(self: Encoder, *arguments: object, **options: object) -> Encoder:
        seen.append(str(arguments[0]))
        return to(self, *arguments, **options)  # type: ignore[arg-type, no-any-return]

    monkeypatch.setattr(Encoder, "to", record)
    for module in (features, maps):
        monkeypatch.setattr(module, "choose_device", lambda name=None: OTHER if name is None else torch.device(name))
    return seen


@pytest.mark.parametrize("command", ["embed", "search", "evaluate", "explain"])
@pytest.mark.parametrize("asked", [None, "cpu"])
def test_the_best_device_is_taken_unless_another_is_asked_for(
    command: str, asked: str | None, encoder: Path, tiny_world: Path, moves: list[str], tmp_path: Path
) -> None:
    last = {
        "embed": ["--out", tmp_path / "v.npz"],
        "search": [next(tiny_world.rglob("*.mp4"))],
        "evaluate": ["--protocol", "knn", "--label", "motion"],
        "explain": ["--out", tmp_path / "page", "--limit", "2", "--iterations", "1", "--clips", "1"],
    }[command]
    device = [] if asked is None else ["--device", asked]
    call = [command, encoder, tiny_world, *last, *device, "--workers", "0", "--quiet"]
    assert main([*map(str, call)]) == 0
    if asked is None:
        assert str(OTHER) in moves
        if command != "explain":  # which opens its nets for itself
            assert moves[-1] == "cpu"
    else:
        assert str(OTHER) not in moves


@pytest.mark.parametrize("command", ["embed", "search", "evaluate", "explain", "annotate"])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--device", "cuda:99", "there is no device 'cuda:99' here; torch sees cpu"),
        ("--device", "gpu", "there is no device 'gpu' here"),
        ("--device", "meta", "there is no device 'meta' here"),
        ("--workers", "-1", "--workers -1: expected a number of processes, 0 or more"),
    ],
)
def test_what_is_not_there_is_a_wrong_call(
    command: str,
    option: str,
    value: str,
    said: str,
    encoder: Path,
    tiny_world: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", tmp_path / "out.npz"]
    call = {
        "search": ["search", encoder, tiny_world, next(tiny_world.rglob("*.mp4"))],
        "annotate": ["data", "annotate", "boxes", tiny_world, "--encoder", encoder],
        "evaluate": ["evaluate", encoder, tiny_world],
    }.get(command, [command, encoder, tiny_world, *out])
    assert main([*map(str, call), option, value]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_batch_size_store_and_workers_reach_the_embedding(encoder: Path, tiny_world: Path, tmp_path: Path) -> None:
    vectors = []
    none = ["--store", "none"]
    for options in (
        ["--batch-size", "1", *none],
        ["--batch-size", "5", "--store", tmp_path / "kept"],
        ["--workers", "2", *none],
    ):
        out = tmp_path / f"{len(vectors)}.npz"
        assert main([*map(str, ["embed", encoder, tiny_world, "--out", out, "--quiet", *options])]) == 0
        vectors.append(np.load(out)["vectors"])
    assert any((tmp_path / "kept").rglob("*"))
    for other in vectors[1:]:
        np.testing.assert_allclose(other, vectors[0], rtol=1e-4, atol=1e-6)


def test_workers_do_not_change_the_number_of_threads(
    encoder: Path, tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums end in other bits with other threads: what is asked of the readers must not reach them."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    inside = []
    fresh = ["--store", "none"]
    for workers in ("0", "2"):
        asked.clear()
        assert (
            main([*map(str, ["embed", encoder, tiny_world, "--out", tmp_path / "v.npz", "--workers", workers, *fresh])])
            == 0
        )
        asked_by_embed = list(asked)
        asked.clear()
        run = ["pretrain", tiny_world, "--out", tmp_path / f"run-{workers}", "--encoder", "r3d_tiny", "--steps", "1"]
        assert main([*map(str, [*run, "--batch-size", "4", "--size", "24", "--workers", workers])]) == 0
        inside.append((asked_by_embed, list(asked)))
    assert inside[0] == inside[1]
    assert all(inside[0])


def test_threads_leave_room_for_readers_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(devices, "usable_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for readers, inside in ((0, 4), (1, 3), (3, 1), (9, 1)):
        with devices.room_for(readers):
            assert torch.get_num_threads() == inside
        assert torch.get_num_threads() == 4
    threads.append(2)  # somebody asked for fewer
    with devices.room_for(1):
        assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.append(4)
    with devices.room_for(3):
        assert torch.get_num_threads() == 4


def test_processes_of_one_launcher_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (devices.usable_cores(), devices.default_workers(torch.device("cuda"))) == (16, 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (devices.usable_cores(), devices.default_workers(torch.device("cuda"))) == (4, 3)
