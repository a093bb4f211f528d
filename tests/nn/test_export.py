"""Names, shapes and files of exported encoders, against the public naming schemes."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.nn import create_encoder
from unreel.nn.export import detectron2_settings, detectron2_state, export_encoder, torchvision_state
from unreel.nn.weights import load_weights


def on_meta(name: str, **arguments: object):
    with torch.device("meta"):
        return create_encoder(name, **arguments)


def detectron2_scheme(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as Detectron2 builds them: BasicStem, then res2 … res5 of BasicBlock or BottleneckBlock."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, channels_in: int, channels: int, kernel: int) -> None:
        shapes[f"{name}.weight"] = (channels, channels_in, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.norm.{part}"] = (channels,)

    conv("stem.conv1", 3, 64, 7)
    channels_in = 64
    for i, blocks in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]):
        mid = 64 * 2**i
        channels = mid if depth == 18 else 4 * mid
        for b in range(blocks):
            name = f"res{i + 2}.{b}"
            if channels_in != channels:
                conv(f"{name}.shortcut", channels_in, channels, 1)
            if depth == 18:
                conv(f"{name}.conv1", channels_in, mid, 3)
                conv(f"{name}.conv2", mid, mid, 3)
            else:
                conv(f"{name}.conv1", channels_in, mid, 1)
                conv(f"{name}.conv2", mid, mid, 3)
                conv(f"{name}.conv3", mid, channels, 1)
            channels_in = channels
    return shapes


@pytest.mark.parametrize("depth", [18, 50])
def test_names_and_shapes_are_detectron2s(depth: int) -> None:
    state = detectron2_state(on_meta(f"resnet_{depth}"))
    assert {n: tuple(t.shape) for n, t in state.items()} == detectron2_scheme(depth)
    assert len(state) == {18: 20, 50: 53}[depth] * 5


def test_every_tensor_keeps_its_place() -> None:
    """Equal shapes hide a swap: name each tensor by its number and follow a few."""
    encoder = create_encoder("resnet_18")
    with torch.no_grad():
        for number, tensor in enumerate(encoder.state_dict().values()):
            tensor.fill_(number)
    own, theirs = encoder.state_dict(), detectron2_state(encoder)
    for ours, name in {
        "conv1.weight": "stem.conv1.weight",
        "bn1.running_var": "stem.conv1.norm.running_var",
        "layer1.1.conv2.weight": "res2.1.conv2.weight",
        "layer1.1.bn2.bias": "res2.1.conv2.norm.bias",
        "layer4.0.downsample.0.weight": "res5.0.shortcut.weight",
        "layer4.0.downsample.1.weight": "res5.0.shortcut.norm.weight",
        "layer3.0.bn1.running_mean": "res4.0.conv1.norm.running_mean",
    }.items():
        assert torch.equal(own[ours], theirs[name]), name


def test_the_stride_is_in_the_3x3_convolution() -> None:
    encoder = on_meta("resnet_50")
    for stage in (encoder.layer2, encoder.layer3, encoder.layer4):
        assert (stage[0].conv1.stride, stage[0].conv2.stride) == ((1, 1), (2, 2))
    assert detectron2_settings(encoder)["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is False


class TorchvisionBasic(nn.Module):
    """The names torchvision's resnet18 has, module by module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for i in range(4):
            layer = nn.Sequential()
            for b in range(2):
                block = nn.Module()
                width = 64 * 2**i
                block.conv1, block.bn1 = nn.Conv2d(channels, width, 3, bias=False), nn.BatchNorm2d(width)
                block.conv2, block.bn2 = nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width)
                if channels != width:
                    block.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
                channels = width
                layer.add_module(str(b), block)
            self.add_module(f"layer{i + 1}", layer)
        self.fc = nn.Linear(512, 1000)


def test_torchvision_lacks_its_classifier_alone() -> None:
    with torch.device("meta"):
        model = TorchvisionBasic()
    found = model.load_state_dict(torchvision_state(on_meta("resnet_18")), strict=False, assign=True)
    assert found.missing_keys == ["fc.weight", "fc.bias"]
    assert found.unexpected_keys == []


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_file_loads_again(tmp_path: Path, suffix: str) -> None:
    encoder = create_encoder("resnet_18", seed=1)
    path = export_encoder(encoder, tmp_path / f"deep/net{suffix}", format="torchvision")
    other = create_encoder("resnet_18", seed=2)
    assert load_weights(other, path).coverage == 1
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), other.parameters(), strict=True))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_detectron2_file_is_its_zoos_and_every_numpy_reads_it(tmp_path: Path) -> None:
    encoder = create_encoder("resnet_18", seed=1)
    path = export_encoder(encoder, tmp_path / "net.pkl", format="detectron2")
    data = path.read_bytes()
    loaded = pickle.loads(data, encoding="latin1")
    assert loaded["__author__"]
    assert loaded["matching_heuristics"] is True
    for name, tensor in detectron2_state(encoder).items():
        array = loaded["model"][name]
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        assert torch.equal(torch.from_numpy(array), tensor)  # writable: from_numpy would warn
    names = [text for op, text, _ in pickletools.genops(data) if op.name == "SHORT_BINUNICODE"]
    assert not any("numpy.core" in t or "numpy._core" in t for t in names)
    assert "numpy" in names


def test_settings_are_those_of_the_paper() -> None:
    coco, voc = (detectron2_settings(on_meta("resnet_50"), name) for name in ("coco", "voc"))
    assert coco["MODEL"]["PIXEL_MEAN"] == [123.675, 116.28, 103.53]
    assert coco["MODEL"]["PIXEL_STD"] == [58.395, 57.12, 57.375]
    assert coco["INPUT"] == {
        "FORMAT": "RGB",
        "MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
        "MIN_SIZE_TEST": 800,
    }
    assert coco["SOLVER"] == {
        "IMS_PER_BATCH": 16,
        "BASE_LR": 0.02,
        "STEPS": [120_000, 160_000],
        "MAX_ITER": 180_000,
    }
    assert (coco["MODEL"]["MASK_ON"], voc["MODEL"]["MASK_ON"]) == (True, False)
    assert voc["SOLVER"]["MAX_ITER"] == 24_000
    assert voc["SOLVER"]["STEPS"] == [18_000, 22_000]
    assert voc["SOLVER"]["WARMUP_ITERS"] == 100
    assert voc["INPUT"]["MIN_SIZE_TRAIN"][0] == 480
    assert coco["MODEL"]["RESNETS"]["NORM"] == "SyncBN"
    assert coco["MODEL"]["BACKBONE"]["FREEZE_AT"] == 0
    assert coco["TEST"]["PRECISE_BN"]["ENABLED"] is True
    assert detectron2_settings(on_meta("resnet_50"), batch=8)["SOLVER"]["IMS_PER_BATCH"] == 8
    assert detectron2_settings(on_meta("resnet_18"))["MODEL"]["RESNETS"]["RES2_OUT_CHANNELS"] == 64


def test_what_has_no_names_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="resnet_18 and resnet_50, not for r3d_tiny"):
        detectron2_state(on_meta("r3d_tiny"))
    for arguments, word in (
        ({"stem": "cifar"}, "cifar"),
        ({"width": 16}, "width 16"),
        ({"in_channels": 1}, "1 input"),
    ):
        with pytest.raises(UsageError, match=word):
            torchvision_state(on_meta("resnet_18", **arguments))
    with pytest.raises(UsageError, match=r"ends in \.pkl"):
        export_encoder(on_meta("resnet_18"), tmp_path / "net.pth", format="detectron2")
    with pytest.raises(UsageError, match="detectron2"):
        export_encoder(on_meta("resnet_18"), tmp_path / "net.pkl", format="detectron")
    with pytest.raises(UsageError, match="coco"):
        detectron2_settings(on_meta("resnet_18"), "cocoa")
    assert list(tmp_path.iterdir()) == []
