from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.clips import random_batch, tiny_cvrl
from unreel.core import distributed
from unreel.core.errors import DataError, UsageError
from unreel.core.settings import describe
from unreel.data.batch import Fault
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest
from unreel.methods import CVRL
from unreel.nn.weights import read_card
from unreel.train import build_optimizer
from unreel.train.backend import Backend
from unreel.train.options import Keeping, Training
from unreel.train.run import Run, open_run, pretrain
from unreel.train.schedule import make_schedule, warmup_cosine

SETTINGS = {"data": {"folder": "clips", "workers": 0}, "optimizer": {"lr": 0.05}}


def train(out: Path, **options: Any) -> tuple[Run, CVRL]:
    method = tiny_cvrl()
    batches = [random_batch(seed=s) for s in range(4)]
    optimizer = build_optimizer(method, lr=0.05)
    given = {"epochs": 2} | {f.name: options.pop(f.name) for f in fields(Training) if f.name in options}
    keeping = Keeping(log_every=1, stop_after=options.pop("stop_after", None))
    options = {"settings": SETTINGS, "device": "cpu", **options}
    return pretrain(method, batches, optimizer, out=out, training=Training(**given), keeping=keeping, **options), method


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, CVRL]:
    return train(tmp_path_factory.mktemp("runs") / "a" / "b", card={"recipe": "none"})


def test_leaves_everything_a_reader_needs(finished: tuple[Run, CVRL]) -> None:
    run, _ = finished
    assert run.completed
    assert run.config == SETTINGS
    assert [r["step"] for r in run.metrics()] == list(range(1, 9))
    assert {"loss", "lr", "contrast_accuracy", "contrast_entropy", "data_wait", "clips_per_s"} <= run.metrics()[
        0
    ].keys()
    assert [r["lr"] for r in run.metrics()] == [warmup_cosine(s, 0.05, 8) for s in range(8)]
    assert run.faults() == []
    assert [p.name for p in run.checkpoints] == ["step-000000008.pt"]
    session = run.environment["sessions"][0]
    assert session["steps"] == [0, 8]
    assert session["packages"]["torch"]
    names = {p.name for p in run.path.iterdir()}
    assert names == {"config.yaml", "metrics.jsonl", "environment.json", "checkpoints", "encoder.safetensors"}
    assert open_run(run.path).path == run.path


def test_the_encoder_is_the_trained_one_and_its_card_says_how(finished: tuple[Run, CVRL]) -> None:
    run, method = finished
    encoder = run.load_encoder()
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    card = read_card(run.encoder_path)
    assert card["pretraining"]["steps"] == 8
    assert card["pretraining"]["settings"] == SETTINGS
    assert card["pretraining"]["recipe"] == "none"
    assert (encoder.input_spec.num_frames, encoder.input_spec.size_px) == (4, 16)


def test_a_finished_run_comes_back_as_it_is(finished: tuple[Run, CVRL]) -> None:
    run, _ = finished
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.safetensors")}
    again, _ = train(run.path)
    assert again == run
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*.safetensors")} == before
    assert len(run.metrics()) == 8


def test_resumes_by_itself_and_ends_with_equal_bits(tmp_path: Path, finished: tuple[Run, CVRL]) -> None:
    run, _ = train(tmp_path, stop_after=3)
    assert not run.completed
    with pytest.raises(DataError, match="not complete"):
        run.load_encoder()
    other = {**SETTINGS, "data": {"folder": "clips", "workers": 7}}  # more workers are the same run
    run, method = train(tmp_path, settings=other)
    assert run.completed
    for name, value in finished[1].state_dict().items():
        assert torch.equal(value, method.state_dict()[name]), name
    assert [r["step"] for r in run.metrics()] == list(range(1, 9))
    assert [s["steps"] for s in run.environment["sessions"]] == [[0, 3], [3, 8]]


def test_another_run_is_refused_with_the_reason_and_nothing_is_touched(finished: tuple[Run, CVRL]) -> None:
    run, _ = finished
    before = (run.path / "config.yaml").read_bytes(), (run.path / "environment.json").read_bytes()
    with pytest.raises(UsageError, match=r"data.folder was clips, is other"):
        train(run.path, settings={**SETTINGS, "data": {"folder": "other"}})
    with pytest.raises(UsageError, match=r"steps was 8, is 4"):
        train(run.path, epochs=1)
    with pytest.raises(UsageError, match="already holds a run"):
        train(run.path, resume=False)
    assert before == ((run.path / "config.yaml").read_bytes(), (run.path / "environment.json").read_bytes())


def test_a_directory_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "encoder.safetensors").write_bytes(b"mine")
    with pytest.raises(UsageError, match="unknown origin"):
        train(tmp_path)
    with pytest.raises(DataError, match="is not a run"):
        open_run(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(Exception, match="cannot be written"):
        train(tmp_path / "runs" / "one")


def test_channels_last_weights_are_saved_like_others(tmp_path: Path) -> None:
    run, method = train(tmp_path, device=Backend("cpu", "bfloat16", "channels_last"), epochs=0.5)
    weight = next(p for p in method.encoder.parameters() if p.ndim == 5)
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    saved = run.load_encoder().state_dict()
    assert all(
        torch.equal(v, saved[n]) and v.stride() == saved[n].stride() for n, v in method.encoder.state_dict().items()
    )
    assert json.loads((run.path / "environment.json").read_text())["identity"]["steps"] == 2


def test_the_rate_can_move_once_an_epoch(tmp_path: Path) -> None:
    run, _ = train(tmp_path, epochs=3, schedule_per="epoch", final_lr=0.001)
    assert [r["lr"] for r in run.metrics()] == [warmup_cosine(s // 4 * 4, 0.05, 12, final_lr=0.001) for s in range(12)]
    with pytest.raises(UsageError, match="schedule_per"):
        train(tmp_path / "b", schedule_per="epcoh")
    with pytest.raises(UsageError, match="not to a function"):
        train(tmp_path / "b", schedule_per="epoch", schedule=lambda step: 0.1)


def test_length_and_schedule() -> None:
    batches = [random_batch(2)] * 6
    assert Training(epochs=2.5).total_steps(batches) == 15
    assert Training(epochs=2, accumulate=4).total_steps(batches) == 3
    assert Training(epochs=0.01).total_steps(batches) == 1
    assert Training(steps=7, accumulate=4).total_steps(iter(batches)) == 7
    for wrong in (Training(), Training(epochs=1, steps=1)):
        with pytest.raises(UsageError, match="either steps or epochs"):
            wrong.total_steps(batches)
    with pytest.raises(UsageError, match="epochs cannot be counted: the loader has no length; give steps"):
        Training(epochs=1).total_steps(iter(batches))
    assert make_schedule("cosine", 0.32, 71_488, 1_787)(1787) == pytest.approx(0.3195069, abs=1e-7)
    flat = make_schedule("constant", 0.2, 10, 4)
    assert [flat(s) for s in (0, 2, 4, 9)] == pytest.approx([0.0, 0.1, 0.2, 0.2])
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        make_schedule("cosin", 0.1, 10)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="warmup_steps"):
        make_schedule("constant", 0.1, 10, 11)


def test_warmup_in_epochs(tmp_path: Path) -> None:
    run, _ = train(tmp_path, warmup_epochs=0.5, stop_after=3)
    assert [r["lr"] for r in run.metrics()] == [warmup_cosine(s, 0.05, 8, 2) for s in range(3)]
    with pytest.raises(
        UsageError, match=r"warmup_epochs 3 \(12 steps\) is longer than the whole run, epochs 2 \(8 steps\)"
    ):
        train(tmp_path / "long", warmup_epochs=3)
    train(tmp_path / "full", warmup_epochs=2, stop_after=1)  # all of it is allowed


def test_trains_on_real_files_through_the_loader(tiny_world: Path, tmp_path: Path) -> None:
    method = tiny_cvrl(size=24)
    manifest = Manifest.from_csv(tiny_world / "manifest.csv")
    dataset = ClipDataset(manifest, method.sampler, method.views, seed=5)
    loader = ClipLoader(dataset, 8, seed=5)
    optimizer = build_optimizer(method, global_batch=8)
    run = pretrain(method, loader, optimizer, out=tmp_path, training=Training(steps=5, seed=5), device="cpu")
    assert run.completed
    assert run.metrics()[-1]["step"] == 5
    assert 0 < run.metrics()[-1]["data_wait"] < 1


def on_ranks(folder: str) -> dict[str, Any]:
    """A run of two steps whose method has a parameter without gradient, with a fault on each rank."""
    method = tiny_cvrl()
    method.spare = nn.Linear(1, 1)
    number = distributed.rank()
    faults = [Fault(f"{number}.mp4", "truncated", "", "x.mp4", step) for step in (0, 1)]
    batches = [replace(random_batch(2, seed=fault.step), faults=(fault,)) for fault in faults]
    run = pretrain(
        method,
        batches,
        build_optimizer(method, lr=0.05),
        out=folder,
        training=Training(steps=2),
        device=Backend("cpu", unused_parameters=True),
        resume=False,
    )
    return {"completed": run.completed, "faults": run.faults(), "counted": run.metrics()[-1]["faults"]}


@pytest.mark.ddp
def test_two_processes_share_a_directory_and_write_the_faults_of_both(ddp: Any, tmp_path: Path) -> None:
    for found in ddp.run(on_ranks, str(tmp_path / "run")):
        assert found["completed"]
        assert [(f["path"], f["at_step"]) for f in found["faults"]] == [
            ("0.mp4", 1),
            ("1.mp4", 1),
            ("0.mp4", 2),
            ("1.mp4", 2),
        ]
        assert found["counted"] == 4


def test_every_option_is_a_setting() -> None:
    for part in (Training, Backend, Keeping):
        assert [setting.name for setting in describe(part)] == [field.name for field in fields(part)]


def test_the_encoder_is_left_part_of_the_way_resumed_or_not(tmp_path: Path, finished: tuple[Run, CVRL]) -> None:
    start, whole = tiny_cvrl().encoder, finished[1].encoder
    _, method = train(tmp_path / "a", part_way=0.25)
    for begun, reached, there in zip(start.parameters(), whole.parameters(), method.encoder.parameters(), strict=True):
        torch.testing.assert_close(there, begun + 0.25 * (reached - begun))
    train(tmp_path / "b", part_way=0.25, stop_after=3)
    run, _ = train(tmp_path / "b", part_way=0.25)
    for name, value in run.load_encoder().state_dict().items():
        assert torch.equal(value, method.encoder.state_dict()[name]), name
