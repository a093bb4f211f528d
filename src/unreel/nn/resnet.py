"""Two-dimensional ResNets (v1.5), applied to every frame by itself: ``resnet_18`` and ``resnet_50``.

Parameter and buffer names are torchvision's (without ``fc``), so public state dicts fit as they are. Maps are 5-D like
every encoder's: (B, C, T, h, w) with T unchanged, so images are clips of one frame and video features average frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from torch import nn

from unreel.core.checks import Count, Range
from unreel.nn.frames import FrameEncoder
from unreel.nn.registry import register_variant
from unreel.nn.staged import (
    Normalization,
    Residual,
    StageStep,
    he_init_,
    input_spec,
    zero_init_residuals_,
)

Stem: TypeAlias = Literal["imagenet", "cifar"]


def _conv(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, bias=False)


class _Block(Residual):
    """Begins with the shortcut: identity, or 1×1 convolution and batch norm where the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(_conv(in_channels, channels, 1, stride), nn.BatchNorm2d(channels))


class BasicBlock(_Block):
    """Two 3×3 convolutions."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels, stride)
        self.conv1 = _conv(in_channels, channels, 3, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)


class Bottleneck(_Block):
    """1×1, 3×3 (with the stride: "v1.5"), 1×1 times four."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__(in_channels, channels * self.expansion, stride)
        self.conv1 = _conv(in_channels, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = _conv(channels, channels * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)


class ResNet(FrameEncoder):
    """A 2-D ResNet on clips.

    Args:
        block, layers: the blocks of each stage, and how many.
        stem: "imagenet" is 7×7 with stride 2 and a max pool; "cifar" is 3×3 with stride 1 and no pool.
        in_channels: 3, or 1 for grey frames.
        normalization: ImageNet's channel statistics, as public checkpoints expect, or "none".
        zero_init_residual: start each block as the identity.
        width: channels of the stem and the first stage; each further stage has twice those before. 64 is the published
            net; 32 and 16 are for CPUs.
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        stem: Stem = "imagenet",
        in_channels: Count = 3,
        normalization: Normalization = "imagenet",
        zero_init_residual: bool = False,
        width: Annotated[int, Range(ge=1, unit="channels")] = 64,
    ) -> None:
        super().__init__()
        imagenet = stem == "imagenet"
        self.conv1 = _conv(in_channels, width, 7, 2) if imagenet else _conv(in_channels, width, 3)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if imagenet else None
        steps = {"stem": StageStep(width, 1, 2 if imagenet else 1, ("conv1", "bn1", "relu"))}
        if imagenet:
            steps["pool"] = StageStep(width, 1, 2, ("maxpool",))
        channels = width
        for i, depth in enumerate(layers):
            mid, stride = width * 2**i, 1 if i == 0 else 2
            blocks = [block(channels, mid, stride)]
            channels = mid * block.expansion
            blocks += [block(channels, mid, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            steps[f"res{i + 2}"] = StageStep(channels, 1, stride, (f"layer{i + 1}",))
        self.set_steps(steps)
        self.input_spec = input_spec(in_channels, normalization, num_frames=1, size_px=224 if imagenet else 32)
        he_init_(self)
        if zero_init_residual:
            zero_init_residuals_(self)


resnet_18 = register_variant(
    "resnet_18",
    ResNet,
    "ResNet-18: 11,176,512 parameters, 512 features; arguments as ``ResNet``.",
    fixed={"block": BasicBlock, "layers": (2, 2, 2, 2)},
)
resnet_50 = register_variant(
    "resnet_50",
    ResNet,
    "ResNet-50: 23,508,032 parameters, 2048 features; arguments as ``ResNet``.",
    fixed={"block": Bottleneck, "layers": (3, 4, 6, 3)},
)
