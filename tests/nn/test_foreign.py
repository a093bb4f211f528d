"""Encoders by names with a scheme: what their packages say is kept, files build them again, and no file runs code."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unreel.core.errors import UsageError
from unreel.nn import Encoder, InputSpec, create_encoder, encoder_arguments, load_encoder, save_encoder
from unreel.nn import foreign as foreign_module
from unreel.nn.kernels import is_channels_last
from unreel.tasks.baselines import random_init
from unreel.train.run import open_encoder


class Timm(nn.Module):
    """A net as timm's: features apart from the classifier, maps with channels last, a word on its input."""

    output_fmt = "NHWC"
    pretrained_cfg: dict[str, object] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "input_size": (3, 24, 24)}  # noqa: RUF012

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 5, 4, 4), nn.Linear(5, classes or 5)
        self.register_buffer("position", torch.arange(5.0), persistent=False)

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stem(x).movedim(1, -1) + self.position

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the classifier is not asked")


class Config(SimpleNamespace):
    def to_json_string(self) -> str:
        return json.dumps(vars(self))


class Video(nn.Module):
    """A video net as those of transformers: frames before channels, a structure of tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.patch = config, nn.Conv3d(3, config.hidden, (2, 4, 4), (2, 4, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": self.patch(x.transpose(1, 2)).flatten(2).transpose(1, 2)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fakes of timm and transformers; what they were asked to fetch."""
    fetched: list[str] = []

    def create_model(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        net = Timm(num_classes)
        if pretrained:
            fetched.append(name)
            nn.init.constant_(net.stem.bias, 0.5)
        return net

    def fetch(name: str) -> Any:
        if name != "org/video":
            raise OSError(f"{name} is not a model identifier\nmore")
        fetched.append(name)
        return Config(model_type="video", hidden=6, num_frames=4, image_size=16)

    timm, hub = ModuleType("timm"), ModuleType("transformers")
    vars(timm).update(create_model=create_model, list_models=lambda pattern: ["tiny"])
    vars(hub).update(
        AutoConfig=SimpleNamespace(from_pretrained=fetch, for_model=lambda **values: Config(**values)),
        AutoModel=SimpleNamespace(from_pretrained=lambda name: Video(fetch(name)).half(), from_config=Video),
        AutoImageProcessor=SimpleNamespace(
            from_pretrained=lambda name: SimpleNamespace(
                image_mean=[0.1, 0.2, 0.3],
                image_std=[1.0, 1.0, 2.0],
                size={"shortest_edge": 20},
                crop_size={"height": 16},
            )
        ),
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "transformers", hub)
    return fetched


@pytest.mark.parametrize(
    ("name", "spec", "features"),
    [
        ("timm:tiny", InputSpec(1, 1, 24, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)), 5),
        ("hf:org/video", InputSpec(4, 1, 16, 3, (0.1, 0.2, 0.3), (1.0, 1.0, 2.0)), 6),
    ],
)
def test_a_package_s_word_is_kept_and_the_file_fetches_nothing(
    name: str, spec: InputSpec, features: int, asked: list[str], tmp_path: Path
) -> None:
    encoder = create_encoder(name, seed=0).eval()
    assert (encoder.input_spec, encoder.num_features, encoder.architecture) == (spec, features, name)
    assert asked == [name.partition(":")[2]]
    loaded = load_encoder(save_encoder(encoder, tmp_path))
    fresh, again = random_init(encoder, seed=1), random_init(loaded, seed=1)
    assert len(asked) == 1
    assert loaded.arguments == encoder.arguments
    x = torch.rand(2, 3, 4, spec.size_px, spec.size_px, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(x), encoder(x))
        assert torch.equal(fresh(x), again(x))
        assert not torch.allclose(fresh(x), encoder(x))


def test_a_video_net_sees_frames_in_order(asked: list[str]) -> None:
    encoder = create_encoder("hf:org/video", pretrained=False, seed=0).eval()
    assert isinstance(encoder.module, Video)
    x = torch.rand(1, 3, 4, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_features(x)["output"], encoder.module.patch(x))


def test_arguments_go_before_what_the_package_says(asked: list[str]) -> None:
    encoder = create_encoder("timm:tiny", size_px=32, mean=(0.0, 0.0, 0.0), num_frames=3, stride_frames=2)
    assert encoder.input_spec == InputSpec(3, 2, 32, 3, (0.0, 0.0, 0.0), (0.2, 0.2, 0.1))


FACTORIES = """
from torch import nn
import unreel.nn
def net(width=4, *, kernel: int = 3, pretrained: bool = True, weights=None, **more):
    assert not more and weights is None
    return nn.Sequential(nn.Conv2d(3, width, kernel, 2), nn.Conv2d(width, width, 1, groups=width))
def plain(channels: int = 1):
    return nn.Conv3d(channels, 4, 1)
def own():
    return unreel.nn.create_encoder("r3d_tiny")
def number():
    return 3
kinds = [net]
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the folder that the user is in; nobody has named them yet."""
    (tmp_path / "stranger_nets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foreign_module, "_named", set())
    monkeypatch.delitem(sys.modules, "stranger_nets", raising=False)
    return "stranger_nets"


def test_a_factory_s_arguments_are_settings_and_its_module_an_encoder(
    nets: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"{nets}:net"
    with caplog.at_level(logging.WARNING, "unreel"):
        encoder = create_encoder(name, width=6, size_px=32)
    assert "says nothing of its pixels" in caplog.text
    assert encoder.input_spec == InputSpec(1, 1, 32)
    assert encoder.num_features == 6
    assert is_channels_last(encoder)
    known = encoder_arguments(name)
    assert {"width", "kernel", "pretrained", "size_px", "mean", "layers"} <= known.keys()
    assert not known.keys() & {"weights", "more", "seed"}
    assert encoder.arguments["pretrained"] is False
    grey = create_encoder(f"{nets}:plain")
    assert grey.input_spec == InputSpec(16, 1, 224, 1, (0.0,), (1.0,))


def test_an_encoder_of_unreel_s_keeps_its_own_name(nets: str, tmp_path: Path) -> None:
    encoder = create_encoder(f"{nets}:own")
    assert encoder.architecture == "r3d_tiny"
    with pytest.raises(UsageError, match="gives an Encoder, which says itself what it takes: leave out size_px"):
        create_encoder(f"{nets}:own", size_px=32)


def test_no_file_runs_code_that_the_user_has_not_named(
    nets: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{nets}:net"
    encoder = create_encoder(name).eval()
    path = save_encoder(encoder, tmp_path)
    monkeypatch.setattr(foreign_module, "_named", set())
    monkeypatch.delitem(sys.modules, nets)
    with pytest.raises(UsageError, match=rf"{name} is code, and unreel runs it only when .*--factory {name}"):
        load_encoder(path)
    with pytest.raises(UsageError, match="runs it only when"):
        load_encoder(path, factory=f"{nets}:plain")
    assert nets not in sys.modules
    loaded = load_encoder(path, factory=name)
    x = torch.rand(1, 3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), encoder(x))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("stranger_nets:missing", "stranger_nets:missing: module 'stranger_nets' has no attribute 'missing'"),
        ("stranger_nets:kinds", "is a list; expected a function or a class that makes an nn.Module"),
        ("stranger_nets:number", "gives int; expected an nn.Module"),
        ("no_such_nets:net", "there is no module no_such_nets in .* or among the installed packages"),
        ("timm:tiny", "timm:tiny needs the package timm, which is not installed: pip install timm torchvision"),
        (
            "hf:org/video",
            "hf:org/video needs the package transformers, which is not installed: pip install transf",
        ),
        ("timm:", "unknown encoder 'timm:'"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str, nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=message):
        create_encoder(name)


def test_models_that_the_packages_do_not_know_are_named(asked: list[str]) -> None:
    with pytest.raises(UsageError, match="unknown model of timm 'tony'; did you mean 'tiny'"):
        create_encoder("timm:tony")
    with pytest.raises(UsageError, match=r"hf:none cannot be had \(none is not a model identifier\)"):
        create_encoder("hf:none")
    with pytest.raises(UsageError, match="does not take clips of 4 frames and 16² pixels as frames"):
        create_encoder("hf:org/video", layout="frames")


def test_a_place_is_a_run_a_file_or_a_name(asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named = open_encoder("timm:tiny")
    assert named.architecture == "timm:tiny"
    assert not named.training
    save_encoder(create_encoder("r3d_tiny", seed=0), Path("timm:tiny"))  # a file of that name goes first
    assert open_encoder("timm:tiny").architecture == "r3d_tiny"
    with pytest.raises(UsageError, match="resnet_18 is the name of an encoder without weights"):
        open_encoder("resnet_18")
    assert isinstance(open_encoder(tmp_path / "timm:tiny"), Encoder)
