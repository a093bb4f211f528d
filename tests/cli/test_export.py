"""``unreel export``, and the tasks of ``unreel evaluate``."""

import json
from pathlib import Path

import pytest
import yaml

from unreel.cli.main import main
from unreel.data.synthetic.backgrounds import write_background_world
from unreel.nn import create_encoder
from unreel.nn.encoder import InputSpec
from unreel.nn.weights import save_encoder


def test_export_writes_weights_and_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_encoder(create_encoder("resnet_18", seed=0), tmp_path / "net.safetensors")
    command = ["export", str(source), "--format", "detectron2", "--out", str(tmp_path / "d2.pkl")]
    assert main([*command, "--settings-for", "voc", "--batch", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    settings = yaml.safe_load(Path(told["settings"]).read_text())
    assert settings["MODEL"]["RESNETS"]["DEPTH"] == 18
    assert settings["SOLVER"]["IMS_PER_BATCH"] == 8
    assert Path(told["file"]).stat().st_size > 40e6
    assert main(["export", str(source), "--format", "torchvision", "--out", str(tmp_path / "tv.pkl")]) == 2
    assert ".pth" in capsys.readouterr().err
    assert main([*command[:3], "torchvision", "--out", str(tmp_path / "tv.pth"), "--settings-for", "coco"]) == 2


@pytest.mark.slow
def test_a_head_is_exported_with_its_encoder(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = create_encoder("resnet_18", stem="cifar", width=4, seed=0)
    net.input_spec = InputSpec(num_frames=1, size_px=32)
    source, head = save_encoder(net, tmp_path / "net.safetensors"), tmp_path / "head.safetensors"
    options = ["--labels", str(tiny_world), "--label", "motion", "--head", str(head), "--workers", "0", "--quiet"]
    assert main(["predict", str(source), str(tiny_world), *options]) == 0
    capsys.readouterr()
    assert main(["export", str(head), "--format", "torch", "--out", str(tmp_path / "net.pt2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["difference"] <= 1e-4
    assert main(["export", str(head), "--format", "hub", "--out", str(tmp_path / "hub")]) == 2
    assert "a head is written with its encoder, as onnx or torch" in capsys.readouterr().err
    assert main(["export", str(source), "--format", "hub", "--out", str(tmp_path / "hub")]) == 0
    assert "model card" in capsys.readouterr().out
    assert main(["export", str(source), "--format", "onxx", "--out", "x"]) == 2


def test_evaluate_asks_the_background_challenge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = ("original", "mixed_same", "mixed_rand")
    data = write_background_world(tmp_path / "w", num_train=16, num_test=3, num_frames=2, size_px=32, variants=variants)
    net = save_encoder(create_encoder("resnet_18", stem="cifar", width=4, seed=0), tmp_path / "net.safetensors")
    options = ["--profile", "paper-occon", "--linear.num_values", "2", "--linear.max_iterations", "5", "--quiet"]
    assert main(["evaluate", str(net), str(data), "--task", "background", *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    scores = {s["metric"]: s for s in found["scores"] if s["encoder"] == "encoder"}
    assert set(scores) == {"accuracy", "accuracy.mixed_same", "accuracy.mixed_rand", "bg_gap"}
    assert scores["accuracy"]["settings"]["line_search"] == "none"
    assert found["encoder"]["clips"]["size_px"] == 32
    assert main(["evaluate", str(net), str(data), "--task", "shift"]) == 2
    assert "--task.shifted" in capsys.readouterr().err
    assert main(["evaluate", str(net), str(data), "--task.variant", "x"]) == 2
    assert main(["evaluate", str(net), str(data), "--task", "background", "--task.varient", "x"]) == 2
    assert "task.variant" in capsys.readouterr().err
