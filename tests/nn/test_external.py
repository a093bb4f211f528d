"""Modules from elsewhere: layouts, tokens, class tokens, named layers, structures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from unreel.core.errors import UsageError
from unreel.nn import InputSpec, wrap_encoder

SPEC = InputSpec(num_frames=4, size_px=16)


class Vit(nn.Module):
    """A frame transformer as timm and transformers write them: patches, a class token, tokens out."""

    def __init__(self, prefix: int = 1, structured: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, prefix, 6))
        self.block = nn.Linear(6, 6)
        self.head = nn.Linear(6, 10)
        self.structured = structured

    def features(self, x: Tensor) -> Tensor:
        patches = self.patch(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.tokens.expand(len(x), -1, -1), patches], 1))

    def forward(self, x: Tensor) -> object:
        y = self.features(x)
        return SimpleNamespace(last_hidden_state=y) if self.structured else y


def clips(batch: int = 2, frames: int = 4, size: int = 16) -> Tensor:
    return torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("structured", [False, True])
def test_tokens_become_maps_without_the_prefix(prefix: int, structured: bool) -> None:
    module = Vit(prefix, structured)
    encoder = wrap_encoder(module, input_spec=SPEC)
    assert encoder.stage_info == {"output": (6, 1, 4)}
    x = clips()
    with torch.no_grad():
        feature_map = encoder.forward_features(x)["output"]
        assert feature_map.shape == (2, 6, 4, 4, 4)
        tokens = module.features(x[1, :, 2][None])[0, prefix:]
        torch.testing.assert_close(feature_map[1, :, 2].flatten(1).T, tokens)
        torch.testing.assert_close(encoder(x)[1], feature_map[1].mean((1, 2, 3)))


def test_the_class_token_is_the_embedding_when_asked() -> None:
    module = Vit(1)
    encoder = wrap_encoder(module, input_spec=SPEC, pool="cls", layers=["block"])
    x = clips()
    with torch.no_grad():
        frames = torch.stack([module.features(x[1, :, t][None])[0, 0] for t in range(4)])
        torch.testing.assert_close(encoder(x)[1], frames.mean(0))
    with pytest.raises(UsageError, match="class token"):
        wrap_encoder(Vit(0), input_spec=SPEC, pool="cls")


def test_other_sizes_than_the_declared_work() -> None:
    encoder = wrap_encoder(Vit(1), input_spec=SPEC)
    assert encoder.forward_features(clips(1, 2, 24))["output"].shape == (1, 6, 2, 6, 6)


class Video(nn.Module):
    """A tubelet transformer that takes (B, T, C, H, W), as transformers' video models do."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv3d(3, 5, (2, 4, 4), (2, 4, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        assert x.shape[2] == 3
        return {"last_hidden_state": self.patch(x.transpose(1, 2)).flatten(2).transpose(1, 2)}


def test_tubelet_tokens_and_frames_first_layout() -> None:
    module = Video()
    encoder = wrap_encoder(module, input_spec=SPEC, layout="BTCHW")
    assert encoder.stage_info["output"] == (5, 2, 4)
    x = clips()
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_features(x)["output"], module.patch(x))


def test_a_3d_net_with_named_layers_and_max_pooling() -> None:
    module = nn.Sequential(nn.Conv3d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv3d(4, 7, 3, (1, 2, 2), 1))
    encoder = wrap_encoder(module, input_spec=SPEC, layers=["1", "2"], pool="max")
    assert encoder.stage_info == {"1": (4, 2, 2), "2": (7, 2, 4)}
    x = clips()
    with torch.no_grad():
        assert torch.equal(encoder(x), module(x).amax((2, 3, 4)))
        assert torch.equal(encoder.forward_features(x, ["1"])["1"], module[:2](x))
    assert not any(m._forward_hooks for m in module.modules())


def test_vectors_become_maps_of_one_cell() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder = wrap_encoder(module, input_spec=SPEC)
    assert encoder.forward_features(clips())["output"].shape == (2, 4, 4, 1, 1)
    assert encoder.stage_info["output"] == (4, 1, 16)


def test_channels_last_maps_are_turned() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 9, 4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).movedim(1, -1)

    encoder = wrap_encoder(Last(), input_spec=SPEC, channels_last=True)
    assert encoder.stage_info["output"] == (9, 1, 4)


def test_features_are_taken_before_the_classifier_where_the_module_tells() -> None:
    class Timm(Vit):
        def forward_features(self, x: Tensor) -> Tensor:
            return self.features(x)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.features(x)[:, 0])

    assert wrap_encoder(Timm(), input_spec=SPEC).num_features == 6


def test_wrapping_shares_weights_and_keeps_the_mode() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    statistics = module[1].running_mean.clone()
    encoder = wrap_encoder(module, input_spec=SPEC)
    assert module[1].training
    assert torch.equal(module[1].running_mean, statistics)
    assert encoder.module is module


def test_wrong_calls_are_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(2, 2))
    with pytest.raises(UsageError, match="unknown layer"):
        wrap_encoder(module, input_spec=SPEC, layers=["7"])
    with pytest.raises(UsageError, match="names no layer"):
        wrap_encoder(module[:1], input_spec=SPEC, layers=[])
    with pytest.raises(UsageError, match="pool"):
        wrap_encoder(module[:1], input_spec=SPEC, pool="sum")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="layout"):
        wrap_encoder(nn.Flatten(), input_spec=SPEC)
    with pytest.raises(UsageError, match="grid"):
        wrap_encoder(nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten(2)), input_spec=SPEC)
