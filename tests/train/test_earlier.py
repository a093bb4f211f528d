"""A run goes on from its own weights: on other data, for more epochs, interrupted or not; what it was is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from unreel.cli.main import main
from unreel.core.digests import mapping_digest
from unreel.data.manifest import Manifest
from unreel.train import earlier
from unreel.train.earlier import load_earlier, put_aside
from unreel.train.run import open_run

SMALL = [
    *("--method", "simclr", "--encoder", "resnet_18", "--encoder.width", "4", "--size", "16", "--hidden_dim", "8"),
    *("--out_dim", "4", "--train.batch_size", "4", "--train.workers", "0", "--quiet"),
]


@pytest.fixture
def data(tiny_world: Path, tmp_path: Path) -> Path:
    manifest = Manifest.open(tiny_world)
    (tmp_path / "data").mkdir()
    for i in range(8):
        shutil.copy(manifest.absolute(i), tmp_path / "data" / f"{i}.mp4")
    return tmp_path / "data"


def pretrain(data: Path, out: Path, *more: str) -> int:
    return main(["pretrain", str(data), "--out", str(out), *SMALL, *more])


def add(data: Path, tiny_world: Path) -> None:
    shutil.copy(Manifest.open(tiny_world).absolute(9), data / "new.mp4")


def weights(run: Path) -> dict[str, torch.Tensor]:
    return open_run(run).load_encoder().state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_finished_run_grows_and_says_what_is_other_now(
    data: Path, tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert pretrain(data, run, "--train.steps", "3") == 0
    before, settings = weights(run), (run / "config.yaml").read_bytes()
    add(data, tiny_world)
    arguments = [str(data), "--out", str(run), *SMALL[:-1], "--train.steps", "2", "--continue"]
    assert main(["pretrain", *arguments]) == 0
    err = capsys.readouterr().err
    assert "goes on from the weights of its step 3, with a new schedule of 2 steps" in err
    assert "train.steps was 3, is 2" in err
    assert "1 file added: new.mp4" in err
    kept = run / "earlier" / "001"
    assert (kept / "config.yaml").read_bytes() == settings
    assert same(before, weights(kept))
    assert [record["step"] for record in open_run(run).metrics()] == [2]
    assert not same(before, weights(run))
    # The same call again finds it finished.
    after = weights(run)
    assert pretrain(data, run, "--train.steps", "2", "--continue") == 0
    assert "nothing has changed since the run was finished" in capsys.readouterr().err
    assert same(after, weights(run))
    assert [part.name for part in (run / "earlier").iterdir()] == ["001"]


def test_an_interrupted_continuation_ends_as_one_that_is_not(data: Path, tiny_world: Path, tmp_path: Path) -> None:
    assert pretrain(data, tmp_path / "one", "--train.steps", "2") == 0
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    add(data, tiny_world)
    whole = ["--train.steps", "4", "--continue"]
    assert pretrain(data, tmp_path / "one", *whole) == 0
    for stop in ("0", "1", "3"):
        assert pretrain(data, tmp_path / "two", *whole, "--train.stop_after", stop) == 0
    # Without the option too: it is the run that is in the folder now.
    assert pretrain(data, tmp_path / "two", "--train.steps", "4") == 0
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))
    fresh = tmp_path / "fresh"
    assert pretrain(data, fresh, "--train.steps", "4") == 0
    assert not same(weights(fresh), weights(tmp_path / "one"))


def test_a_method_gets_the_weights_back_and_what_depends_on_the_data_starts_anew(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    assert pretrain(data, run, "--train.steps", "1") == 0
    state = torch.load(open_run(run).checkpoints[-1], weights_only=True)["method"]
    put_aside(run)

    class Method(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, tensor in state.items():
                shape = tensor.shape if name != first else (99,)
                self.register_buffer(name.replace(".", "_"), torch.zeros(shape, dtype=tensor.dtype))

        def state_dict(self, *args: Any, **options: Any) -> Any:
            return {name: getattr(self, name.replace(".", "_")) for name in state}

        def load_state_dict(self, found: Any, strict: bool = True) -> Any:
            for name, tensor in found.items():
                getattr(self, name.replace(".", "_")).copy_(tensor)

    first = next(name for name, tensor in state.items() if tensor.ndim)
    method: Any = Method()
    with caplog.at_level("INFO", "unreel"):
        load_earlier(run, method)
    assert f"starts anew, as it depends on the data: {first}" in caplog.text
    for name, tensor in method.state_dict().items():
        assert name == first or torch.equal(tensor, state[name])


def test_a_process_killed_while_it_puts_aside_leaves_a_run_that_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert pretrain(data, run, "--train.steps", "1") == 0
    before = json.loads((run / "environment.json").read_text())
    monkeypatch.setattr(earlier, "_REPLACED", (*earlier._REPLACED[:1], "checkpoints"))
    with pytest.raises(OSError, match="checkpoints"):  # a folder is no file that could be deleted: as if it ended here
        put_aside(run)
    monkeypatch.undo()
    assert json.loads((run / "environment.json").read_text()) == before
    put_aside(run)
    assert [part.name for part in (run / "earlier").iterdir()] == ["001"]
    assert open_run(run).checkpoints == []
    assert not open_run(run).completed


def forget(run: Path, *names: str) -> None:
    """Make a run one of an unreel that did not have these settings."""

    def without(identity: dict[str, Any]) -> dict[str, Any]:
        for name in names:
            section, _, key = name.partition(".")
            del identity[section][key]
        return identity

    record = json.loads((run / "environment.json").read_text())
    record["identity"] = without(record["identity"])
    (run / "environment.json").write_text(json.dumps(record))
    for file in open_run(run).checkpoints:
        state = torch.load(file, weights_only=True)
        state["settings"] = {name: value for name, value in state["settings"].items() if not name.endswith(names)}
        state["digest"] = mapping_digest(state["settings"])
        torch.save(state, file)


def test_a_run_of_an_unreel_without_a_setting_goes_on_while_the_setting_is_as_by_default(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert pretrain(data, whole, "--train.steps", "3") == 0
    assert pretrain(data, run, "--train.steps", "3", "--train.stop_after", "1") == 0
    forget(run, "encoder.norms", "train.part_way")
    assert pretrain(data, run, "--train.steps", "3", "--train.part_way", "0.5") == 2
    assert "train.part_way was unset, is 0.5" in capsys.readouterr().err
    assert pretrain(data, run, "--train.steps", "3") == 0
    assert same(weights(whole), weights(run))
    assert pretrain(data, run, "--train.steps", "3") == 0
