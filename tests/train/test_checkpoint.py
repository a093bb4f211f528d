from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from unreel.core.errors import UnreelError, UsageError
from unreel.train.checkpoint import Checkpoints, differences

SETTINGS = {"optimizer": {"lr": 0.1, "betas": (0.9, 0.99)}, "seed": 1}


def save(checkpoints: Checkpoints, *steps: int) -> list[Path]:
    return [checkpoints.save({"step": s, "w": torch.full((1000,), float(s))}, settings=SETTINGS) for s in steps]


def test_the_last_few_are_kept_and_the_newest_is_read(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "new", keep=2)
    assert checkpoints.load(settings=SETTINGS) is None
    save(checkpoints, 1, 5, 30)
    assert [p.name for p in checkpoints.paths()] == ["step-000000005.pt", "step-000000030.pt"]
    state = checkpoints.load(settings=SETTINGS)
    assert state is not None
    assert state["step"] == 30
    assert torch.equal(state["w"], torch.full((1000,), 30.0))
    assert not list((tmp_path / "new").glob(".*"))


@pytest.mark.parametrize("size", [0, 10, 3000])
def test_a_truncated_file_falls_back_to_the_one_before(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path)
    _, newest = save(checkpoints, 1, 2)
    assert newest.stat().st_size > 3000
    newest.write_bytes(newest.read_bytes()[:size])
    with caplog.at_level(logging.WARNING):
        state = checkpoints.load(settings=SETTINGS)
    assert state is not None
    assert state["step"] == 1
    assert "step-000000002.pt cannot be read" in caplog.text


def test_an_unreadable_later_checkpoint_does_not_push_out_the_one_just_written(tmp_path: Path) -> None:
    _, newest = save(Checkpoints(tmp_path), 5, 9)
    newest.write_bytes(b"")
    checkpoints = Checkpoints(tmp_path, keep=1)  # a resumed run may keep fewer
    save(checkpoints, 6)
    state = checkpoints.load(settings=SETTINGS)
    assert state is not None
    assert state["step"] == 6


def test_no_readable_checkpoint_is_an_error_not_a_new_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for path in save(checkpoints, 1, 2):
        path.write_bytes(b"")
    with pytest.raises(UnreelError, match="none of 2 checkpoints"):
        checkpoints.load(settings=SETTINGS)


def test_a_process_killed_while_writing_leaves_the_last_one_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    (tmp_path / ".step-000000002.pt.4711").write_bytes(b"half")
    state = checkpoints.load(settings=SETTINGS)
    assert state is not None
    assert state["step"] == 1
    save(checkpoints, 3)
    assert not list(tmp_path.glob(".*"))


def test_a_write_that_fails_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    def full(state: object, stream: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UnreelError, match="cannot be written: no space left on device; free some space"):
        save(checkpoints, 2)
    monkeypatch.undo()
    assert [p.name for p in checkpoints.paths()] == ["step-000000001.pt"]
    assert not list(tmp_path.glob(".*"))


def test_other_settings_are_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)
    with pytest.raises(UsageError, match=r"optimizer.lr was 0.1, is 0.2; seed was 1, is unset"):
        checkpoints.load(settings={"optimizer": {"lr": 0.2, "betas": [0.9, 0.99]}})
    assert differences(SETTINGS, {"seed": 1, "optimizer": {"betas": [0.9, 0.99], "lr": 0.1}}) == []


def test_when_to_save(tmp_path: Path) -> None:
    by_step = Checkpoints(tmp_path, every_steps=3, every_s=None)
    assert [s for s in range(1, 8) if by_step.due(s)] == [3, 6]
    assert not by_step.overdue()
    by_time = Checkpoints(tmp_path, every_s=0.0)
    assert by_time.overdue()
    assert not by_time.due(3)
    with pytest.raises(UsageError, match="keep"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(UsageError, match="every_steps"):
        Checkpoints(tmp_path, every_steps=0)
