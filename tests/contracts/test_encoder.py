"""The encoder contract on every architecture, and on modules from elsewhere."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from tests.contracts.encoder_suite import EncoderSuite
from unreel.nn import Encoder, InputSpec, create_encoder, wrap_encoder


class TestR3D50(EncoderSuite):
    """At an eighth of the width: the same net, for speed; tests/nn/test_r3d.py has the full one."""

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("r3d_50", width=0.125, seed=0).eval()


class TestR3D50TensorFlowPadding(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("r3d_50", width=0.125, padding="tf_same", pool_stride_t=2, seed=0).eval()


class TestR3DTiny(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("r3d_tiny", seed=0).eval()


class TestR3DTinyFull(EncoderSuite):
    """3×3×3 blocks, one channel, ImageNet statistics."""

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder(
            "r3d_tiny", factorised=(False,) * 4, in_channels=1, normalization="imagenet", seed=0
        ).eval()


class TestR3DSmall(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("r3d_small", seed=0).eval()


class TestResNet18(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("resnet_18", seed=0).eval()


class TestResNet18Cifar(EncoderSuite):
    frames = 2

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("resnet_18", stem="cifar", seed=0).eval()


class TestVitTiny(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("vit_tiny", seed=0).eval()


class TestVitTinyLearned(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("vit_tiny", positions="learned", depth=2, seed=0).eval()


class TestWrapped2d(EncoderSuite):
    can_refine = False

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = nn.Sequential(
                OrderedDict(
                    low=nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
                    high=nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.GELU()),
                )
            )
        return wrap_encoder(module, input_spec=InputSpec(num_frames=4, size_px=32), layers=["low", "high"]).eval()


class TestC3D(EncoderSuite):
    """At a sixteenth of the width; clips of 8 frames, the fewest it takes."""

    frames = 8

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("c3d", width=4, seed=0).eval()


class TestR3D18(EncoderSuite):
    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("r3d_18", width=4, seed=0).eval()


class TestR2Plus1D18(EncoderSuite):
    """The shallow net, on one channel."""

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("r2plus1d_18", layers=(1, 1, 1, 1), width=4, in_channels=1, seed=0).eval()


class TestEfficientNetLite0(EncoderSuite):
    frames = 2

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder("efficientnet_lite0", pretrained=False, seed=0).eval()


def small_net(width: int = 6, pretrained: bool = True) -> nn.Module:
    """A depthwise net as a stranger writes it, without a word of unreel; ``pretrained`` fills it with one number."""
    low = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.Hardswish())
    high = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1, groups=width), nn.BatchNorm2d(width))
    if pretrained:
        nn.init.constant_(low[0].bias, 0.25)
    return nn.Sequential(low, high)


class TestFactory(EncoderSuite):
    can_refine = False

    @pytest.fixture(scope="class")
    @classmethod
    def encoder(cls) -> Encoder:
        return create_encoder(
            f"{__name__}:small_net", layers=("0", "1"), mean=(0.5, 0.4, 0.3), size_px=32, seed=0
        ).eval()
