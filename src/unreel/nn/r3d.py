"""R3D-50, -101 and -152: the backbones of CVRL, a slow-pathway bottleneck ResNet with a strided five-frame stem.

Source of every number: docs/methods/cvrl.md, Backbone. Parameters carry torchvision's names (``conv1``, ``bn1``,
``layer1.0.conv1`` …), so that a 2-D ResNet inflates name by name; stages are ``stem``, ``pool``, ``res2`` … ``res5`` as
in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal, TypeAlias

from torch import Tensor, nn

from unreel.core.checks import Count, Positive, Range
from unreel.core.errors import UsageError
from unreel.nn.padding import Padding, conv3d, max_pool3d
from unreel.nn.registry import register_variant
from unreel.nn.staged import (
    Normalization,
    Residual,
    StagedEncoder,
    StageStep,
    he_init_,
    input_spec,
    zero_init_residuals_,
)

Init: TypeAlias = Literal["fan_in", "he"]

# Standard deviation of a standard normal truncated to [−2, 2]; dividing by it keeps the variance that was asked.
_TRUNCATED_STD = 0.87962566103423978


def fan_in_truncated_normal_(weight: Tensor) -> None:
    """Fill in place: normal truncated at two standard deviations, variance 1 / fan_in after the truncation."""
    std = math.sqrt(1 / (weight.numel() / weight.shape[0])) / _TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class Bottleneck3d(Residual):
    """k×1×1, 1×3×3 (with the spatial stride), 1×1×1 times four, each with batch norm; projection shortcut."""

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        temporal_kernel: int,
        stride_hw: int,
        project: bool,
        padding: Padding,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        out_channels, strides = channels * self.expansion, (1, stride_hw, stride_hw)
        self.conv1 = conv3d(in_channels, channels, (temporal_kernel, 1, 1), padding=padding)
        self.bn1 = norm(channels)
        self.conv2 = conv3d(channels, channels, (1, 3, 3), strides, padding=padding)
        self.bn2 = norm(channels)
        self.conv3 = conv3d(channels, out_channels, (1, 1, 1), padding=padding)
        self.bn3 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if project:
            shortcut = conv3d(in_channels, out_channels, (1, 1, 1), strides, padding=padding)
            self.downsample = nn.Sequential(shortcut, norm(out_channels))


class R3D(StagedEncoder):
    """CVRL's R3D family.

    Args:
        layers: blocks of res2 … res5.
        width: multiplies every filter count: 1, 2 and 4 in the papers ("2×", "4×"); fractions such as 0.25 make slim
            nets of the same shape.
        stem_width: channels of the stem, 64·width by default; whether the paper widened it is unknown.
        temporal_kernels: kernel of each block's first convolution, for res2 … res5.
        stem_kernel_t, stem_stride_t, pool_stride_t: the temporal side of the stem and of the pool.
        padding: "symmetric", or "tf_same" for exact parity with weights of the official release.
        in_channels: 3, or 1 for grey clips.
        normalization: "none" as in the release, or "imagenet" for inflated 2-D checkpoints.
        bn_eps, bn_momentum: of every batch norm; the release's decay 0.9 is momentum 0.1.
        init: "fan_in" is the release's truncated normal of variance 1/fan_in, "he" the fan-out normal of 2-D ResNets.
        zero_init_residual: start each block as the identity; the release does not.
    Raises: UsageError for a width that gives no whole channels, lists of another length than four, and even kernels.
    """

    def __init__(
        self,
        *,
        layers: Sequence[int],
        width: Positive = 1,
        stem_width: Count | None = None,
        temporal_kernels: Sequence[int] = (1, 1, 3, 3),
        stem_kernel_t: Count = 5,
        stem_stride_t: Count = 2,
        pool_stride_t: Count = 1,
        padding: Padding = "symmetric",
        in_channels: Count = 3,
        normalization: Normalization = "none",
        bn_eps: Positive = 1e-5,
        bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.1,
        init: Init = "fan_in",
        zero_init_residual: bool = False,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or len(temporal_kernels) != 4 or min(layers) < 1:
            raise UsageError(
                f"layers and temporal_kernels need one entry for each of res2 … res5, got {list(layers)} and "
                f"{list(temporal_kernels)}"
            )
        base = round(64 * width)
        if base < 1 or base != 64 * width:
            raise UsageError(f"64·width must be a whole number of at least 1, got width={width}")

        norm = partial(nn.BatchNorm3d, eps=bn_eps, momentum=bn_momentum)
        channels = base if stem_width is None else stem_width
        self.conv1 = conv3d(in_channels, channels, (stem_kernel_t, 7, 7), (stem_stride_t, 2, 2), padding=padding)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        # The pool looks along time only when it also strides there (docs/methods/cvrl.md, Backbone).
        self.maxpool = max_pool3d((1 if pool_stride_t == 1 else 3, 3, 3), (pool_stride_t, 2, 2), padding=padding)
        steps = {
            "stem": StageStep(channels, stem_stride_t, 2, ("conv1", "bn1", "relu")),
            "pool": StageStep(channels, pool_stride_t, 2, ("maxpool",)),
        }
        for i, (depth, temporal_kernel) in enumerate(zip(layers, temporal_kernels, strict=True)):
            block = partial(Bottleneck3d, temporal_kernel=temporal_kernel, padding=padding, norm=norm)
            mid, stride = base * 2**i, 1 if i == 0 else 2
            blocks = [block(channels, mid, stride_hw=stride, project=True)]
            channels = mid * Bottleneck3d.expansion
            blocks += [block(channels, mid, stride_hw=1, project=False) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            steps[f"res{i + 2}"] = StageStep(channels, 1, stride, (f"layer{i + 1}",))
        self.set_steps(steps)
        self.input_spec = input_spec(in_channels, normalization, num_frames=16, size_px=224, stride_frames=2)
        if init == "he":
            he_init_(self)
        else:
            for module in self.modules():
                if isinstance(module, nn.Conv3d):
                    fan_in_truncated_normal_(module.weight)
        if zero_init_residual:
            zero_init_residuals_(self)


r3d_50, r3d_101, r3d_152 = (
    register_variant(
        f"r3d_{depth}",
        R3D,
        f"R3D-{depth}: {parameters:,} parameters, 2048 features, blocks {layers} (docs/methods/cvrl.md); arguments as "
        "``R3D``.",
        fixed={"layers": layers},
    )
    for depth, parameters, layers in (
        (50, 31_672_128, (3, 4, 6, 3)),
        (101, 59_577_152, (3, 4, 23, 3)),
        (152, 82_036_544, (3, 8, 36, 3)),
    )
)
