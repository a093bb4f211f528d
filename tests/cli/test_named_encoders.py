"""Encoders by name where a run or a file may stand, and runs of code that the user must name again."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_init import SCORED, STILL, call

from unreel.cli.main import main
from unreel.nn import foreign

NET = "tests.contracts.test_encoder:small_net"


@pytest.fixture
def unnamed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The factories that the user has named: none yet."""
    named: set[str] = set()
    monkeypatch.setattr(foreign, "_named", named)
    return named


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    return str(call(capsys, *arguments, code=2)["error"]["message"])


def test_every_command_takes_a_name(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, unnamed: set[str]
) -> None:
    computed = ("--device", "cpu", "--workers", "0", "--store", tmp_path / "store")
    found = call(capsys, "embed", NET, tiny_world / "test", "--out", tmp_path / "v.npz", *computed)
    assert found["features"] == 6
    video = next((tiny_world / "test").rglob("*.mp4"))
    assert len(call(capsys, "search", NET, tiny_world / "test", video, "--top", "2", *computed)["results"]) == 2
    report = call(capsys, "evaluate", NET, tiny_world, "--encoder.size_px", "16", "--encoder.width", "5", *SCORED)
    assert report["encoder"]["architecture"] == NET
    assert (report["encoder"]["num_features"], report["encoder"]["clips"]["size_px"]) == (5, 16)
    assert report["scores"][0]["references"].keys() == {"random-init", "first-weights"}


def test_a_run_of_a_factory_is_opened_when_it_is_named(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, unnamed: set[str]
) -> None:
    run = tmp_path / "run"
    command: tuple[Any, ...] = ("pretrain", tiny_world, "--out", run, "--encoder", NET, *STILL)
    call(capsys, *command)
    config = (run / "config.yaml").read_text()
    assert f"name: {NET}" in config
    assert "pretrained: true" in config
    unnamed.clear()
    embed = ("embed", run, tiny_world / "test", "--out", tmp_path / "v.npz", "--device", "cpu", "--workers", "0")
    assert f"--factory {NET}" in refused(capsys, *embed)
    assert f"--encoder {NET}" in refused(capsys, "pretrain", tiny_world, "--recipe", run / "config.yaml", "--dry-run")
    explain = ("explain", run, tiny_world / "test", "--out", tmp_path / "maps", "--expand-resolution", "1")
    assert f"--factory {NET}" in refused(capsys, *explain, "--limit", "2", "--device", "cpu", "--workers", "0")
    assert not unnamed
    assert call(capsys, *embed, "--factory", NET)["features"] == 6
    call(capsys, *command)  # finished: the same command finds it


def test_a_head_s_encoder_is_found_by_its_name(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, unnamed: set[str]
) -> None:
    computed = ("--device", "cpu", "--workers", "0", "--store", tmp_path / "store")
    videos = sorted((tiny_world / "test").rglob("*.mp4"))
    rows = [f"{video.relative_to(tiny_world / 'test')},{'ab'[i % 2]}" for i, video in enumerate(videos[:12])]
    (tmp_path / "few.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    head = tmp_path / "head.safetensors"
    labels = ("--labels", tmp_path / "few.csv", "--protocol", "knn", "--head", head)
    first = call(capsys, "predict", NET, tiny_world / "test", *labels, *computed)
    unnamed.clear()
    assert f"--factory {NET}" in refused(capsys, "predict", head, tiny_world / "test", *computed)
    again = call(capsys, "predict", head, tiny_world / "test", "--factory", NET, *computed)
    assert again["predictions"] == first["predictions"]


def test_models_says_how_other_nets_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^efficientnet_lite0 +3,371,008 +1280 +1 × 224²", out, re.M)
    assert "timm:NAME, hf:NAME (transformers), or your own code as package.module:factory" in out
    capsys.readouterr()
    assert main(["embed", "resnet_18", ".", "--out", "v.npz"]) == 2
    assert "resnet_18 is the name of an encoder without weights" in capsys.readouterr().err
