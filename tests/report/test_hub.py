"""A folder to share: the same weights, what was measured, and nothing that names the data."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unreel
from unreel.core.errors import UsageError
from unreel.report.hub import write_hub_folder


@pytest.fixture(scope="module")
def run(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("runs") / "secret-ward-7"
    small: dict[str, Any] = {
        "steps": 2,
        "warmup_epochs": 0,
        "batch_size": 4,
        "workers": 0,
        "size": 32,
        "clip_frames": 4,
    }
    run = unreel.pretrain("cvrl", tiny_world, encoder="r3d_tiny", out=out, hidden_dim=16, out_dim=8, **small)
    report = unreel.evaluate(run, tiny_world, label="motion", workers=0, progress=False, num_resamples=50)
    report.keep(run.path)
    return run


def test_the_weights_are_the_same_and_the_card_says_what_was_measured(run: Any, tmp_path: Path) -> None:
    folder = write_hub_folder(run.path, tmp_path / "net")
    before, after = unreel.load_encoder(run), unreel.load_encoder(folder)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    card = (folder / "README.md").read_text()
    (report,) = [found for _, found in unreel.tasks.scores.kept_reports(run.path)]
    score = report.score("linear")
    assert f"| motion | linear | {score.metric} | {score.n} | {score.value:.3f} |" in card
    assert "16 videos" in card
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["method"]) == ("r3d_tiny", "CVRL")


def test_nothing_names_the_data(run: Any, tiny_world: Path, tmp_path: Path) -> None:
    folder = write_hub_folder(run.path, tmp_path / "net")
    for file in folder.iterdir():
        content = file.read_bytes()
        for word in (str(tiny_world), tiny_world.name, "secret-ward-7"):
            assert word.encode() not in content, f"{file.name} names {word}"


def test_a_folder_with_other_files_is_left_alone_and_a_bare_encoder_says_that_nothing_was_measured(
    run: Any, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other files"):
        write_hub_folder(run.path, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    folder = write_hub_folder(run.path / "encoder.safetensors", tmp_path / "net")
    write_hub_folder(run.path / "encoder.safetensors", folder)  # again, over its own
    assert "Nothing was measured yet" in (folder / "README.md").read_text()
