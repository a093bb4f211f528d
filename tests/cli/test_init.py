"""``--init``: start from weights that exist, of torchvision's names or of a run; what matched is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.nn.test_architectures import torchvision_names
from torch import Tensor

from unreel.api import load_encoder
from unreel.cli.main import main
from unreel.nn import create_encoder, load_weights, save_encoder
from unreel.nn.initial import initial_weights
from unreel.protocols.store import encoder_digest
from unreel.train.run import open_run

RESNET = ["--encoder", "resnet_18", "--encoder.width", "8"]
# A rate at which no weight of float32 moves.
STILL = [
    *("--size", "32", "--clip-frames", "2", "--hidden-dim", "16", "--lr", "1e-30", "--weight-decay", "0"),
    *("--steps", "1", "--warmup-epochs", "0", "--batch-size", "4", "--train.workers", "0"),
    *("--device", "cpu", "--seed", "1"),
]
SCORED = ["--device", "cpu", "--workers", "0", "--label", "motion"]


def call(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json", "--quiet"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A ResNet-18 of an eighth of the width under torchvision's names, with its classifier."""
    shapes = {n: t.shape for n, t in create_encoder("resnet_18", width=8, seed=0).state_dict().items()}
    names = torchvision_names((2, 2, 2, 2), 2, (False, True, True, True))
    generator = torch.Generator().manual_seed(5)
    drawn = {
        n: torch.tensor(7) if n.endswith("tracked") else torch.rand(shapes[n], generator=generator) / 9
        for n in sorted(names)
    }
    return {**drawn, "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)}


def test_pretraining_starts_from_torchvisions_names_and_from_a_run(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    torch.save(state, tmp_path / "resnet18.pth")
    call(capsys, "pretrain", tiny_world, "--out", tmp_path / "a", *RESNET, *STILL, "--init", tmp_path / "resnet18.pth")
    first = load_encoder(tmp_path / "a")
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, state[name]), name
    said = "100 of 100 tensors match; 0 missing; 0 unexpected; 0 of another shape"
    note = f"The encoder starts from {tmp_path / 'resnet18.pth'}: {said}; 2 dropped: fc.weight, fc.bias."
    assert note in open_run(tmp_path / "a").notes
    found = call(capsys, "pretrain", tiny_world, "--dry-run", *RESNET, *STILL, "--init", tmp_path / "a")
    assert f"The encoder starts from {tmp_path / 'a'}: {said}." in found["notes"]
    matched = initial_weights(second := create_encoder("resnet_18", width=8, seed=3), weights=str(tmp_path / "a"))
    assert found["settings"]["encoder"]["weights_digest"] == matched.digest
    assert all(torch.equal(t, second.state_dict()[n]) for n, t in first.state_dict().items())
    # A run that is repeated by its settings takes other weights, if they are named.
    torch.save({**state, "conv1.weight": state["conv1.weight"] + 1}, tmp_path / "other.pth")
    other = ("--recipe", tmp_path / "a" / "config.yaml", "--init", tmp_path / "other.pth", "--dry-run")
    assert "other.pth: 100 of 100" in json.dumps(call(capsys, "pretrain", tiny_world, *other)["notes"])


def test_a_poor_match_is_refused_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    def refused(name: str, changed: dict[str, Tensor], *options: object) -> str:
        torch.save(changed, tmp_path / name)
        command = ("pretrain", tiny_world, "--out", tmp_path / "run", *(options or RESNET), *STILL)
        return str(call(capsys, *command, "--init", tmp_path / name, code=2)["error"]["message"])

    gap = {n: t for n, t in state.items() if n != "layer2.0.conv1.weight"}
    assert "99 of 100 tensors match; 1 missing: layer2.0.conv1.weight; 0 unexpected; 0" in refused("gap.pth", gap)
    wide = {**state, "conv1.weight": torch.zeros(8, 1, 7, 7)}
    message = refused("wide.pth", wide)
    assert "1 of another shape: conv1.weight [8, 1, 7, 7] instead of [8, 3, 7, 7]" in message
    assert "takes 1 channels there, the encoder 3" in message
    deep = {**state, "layer4.2.conv1.weight": torch.zeros(1)}
    assert "1 unexpected: layer4.2.conv1.weight" in refused("deep.pth", deep)
    assert "0 of 65 tensors match" in refused("net.pth", {"net.weight": torch.zeros(3)}, "--encoder", "r3d_tiny")
    assert not (tmp_path / "run").exists()
    missing = ("pretrain", tiny_world, "--out", tmp_path / "run", *RESNET, *STILL, "--init", tmp_path / "nothing.pth")
    assert "no checkpoint at" in json.dumps(call(capsys, *missing, code=1))


def test_weights_of_ours_say_of_which_net_they_are(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path
) -> None:
    tiny = create_encoder("r3d_tiny", seed=0)
    file = save_encoder(tiny, tmp_path / "tiny.safetensors")
    found = call(capsys, "pretrain", tiny_world, "--out", tmp_path / "run", *RESNET, *STILL, "--init", file, code=2)
    assert "They are weights of r3d_tiny: name it as the encoder." in json.dumps(found)
    found = call(capsys, "evaluate", "r3d_tiny", tiny_world, "--init", file, "--protocol", "knn", *SCORED)
    assert found["encoder"]["digest"] == encoder_digest(tiny)


def test_fine_tuning_starts_from_torchvisions_names(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    spec = {"width": 8, "stem": "cifar"}
    small = {**state, "conv1.weight": state["conv1.weight"][:, :, :3, :3].contiguous()}
    torch.save(small, tmp_path / "small.pth")
    command = ("evaluate", "resnet_18", tiny_world, "--init", tmp_path / "small.pth", *SCORED)
    options = [f"--encoder.{name}={value}" for name, value in spec.items()]
    how = ("--protocol", "finetune", "--finetune.epochs", 1, "--finetune.select", "last")
    found = call(capsys, *command, *options, *how)
    assert "small.pth: 100 of 100 tensors match; 0 missing" in json.dumps(found["notes"])
    encoder = create_encoder("resnet_18", seed=9, **spec)
    load_weights(encoder, small)
    assert found["encoder"]["digest"] == encoder_digest(encoder)
    wrong = call(capsys, *command, "--encoder.width=8", code=2)
    assert "1 of another shape: conv1.weight [8, 3, 3, 3] instead of [8, 3, 7, 7]" in json.dumps(wrong)
    unknown = call(capsys, "evaluate", "resnet_81", tiny_world, "--init", tmp_path / "small.pth", code=2)
    assert "did you mean 'resnet_18'" in json.dumps(unknown)
