"""Small 3-D residual nets for CPUs, small data and demonstrations: ``r3d_tiny`` and ``r3d_small``.

Built for clips of 8 to 16 frames at 48 to 64 pixels. Time is kept at full rate until the second stage and every block
has a temporal convolution, the stem included, so that motion between neighbouring frames is seen before it is averaged
away; space is halved at once, because that is where the time goes. Factorised blocks (1×3×3, then 3×1×1) are the
default: half the arithmetic of 3×3×3 and faster on oneDNN. ``torch.channels_last_3d`` is the fastest layout on CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

from torch import Tensor, nn

from unreel.core.checks import Amount, Count, Positive, Range
from unreel.core.errors import UsageError
from unreel.nn.padding import conv3d
from unreel.nn.registry import register_variant
from unreel.nn.staged import Normalization, StagedEncoder, StageStep, he_init_, input_spec


class SmallBlock(nn.Module):
    """Basic residual block: two convolutions with batch norm, a projection shortcut where the shape changes.

    ``factorised``: 1×3×3 with the spatial stride, then 3×1×1 with the temporal one; otherwise 3×3×3 twice.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride_t: int,
        stride_hw: int,
        factorised: bool,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        first, second = ((1, 3, 3), (3, 1, 1)) if factorised else ((3, 3, 3), (3, 3, 3))
        stride = (stride_t, stride_hw, stride_hw)
        early, late = ((1, *stride[1:]), (stride_t, 1, 1)) if factorised else (stride, (1, 1, 1))
        self.conv1 = conv3d(in_channels, channels, first, early)
        self.conv2 = conv3d(channels, channels, second, late)
        self.norm1, self.norm2 = norm(channels), norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if in_channels != channels or stride != (1, 1, 1):
            self.shortcut = nn.Sequential(conv3d(in_channels, channels, (1, 1, 1), stride), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C', T', H', W')."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.relu(y + (x if self.shortcut is None else self.shortcut(x)))  # type: ignore[no-any-return]


class SmallR3D(StagedEncoder):
    """Stem and up to a handful of stages of ``SmallBlock``; the stages are ``stem``, ``res2``, ``res3`` …

    All sequences have one entry per stage; ``meant_for`` are the frames and pixels of the input spec's clips. Raises
    UsageError when lengths differ.
    """

    def __init__(
        self,
        *,
        meant_for: tuple[int, int],
        channels: Sequence[int],
        layers: Sequence[int],
        temporal_strides: Sequence[int] = (1, 2, 2, 1),
        spatial_strides: Sequence[int] = (2, 2, 2, 1),
        factorised: Sequence[bool] = (True, True, True, True),
        stem_channels: Count,
        stem_kernel: Sequence[int] = (3, 5, 5),
        stem_stride: Sequence[int] = (1, 2, 2),
        in_channels: Count = 3,
        normalization: Normalization = "none",
        dct_highpass: Amount = 0,
        bn_eps: Positive = 1e-5,
        bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.1,
    ) -> None:
        super().__init__()
        per_stage = (channels, layers, temporal_strides, spatial_strides, factorised)
        if len({len(s) for s in per_stage}) != 1 or not channels or min(layers) < 1:
            raise UsageError(
                "channels, layers, temporal_strides, spatial_strides and factorised need one entry per stage and at "
                f"least one block each, got lengths {[len(s) for s in per_stage]} and layers {list(layers)}"
            )
        if len(stem_kernel) != 3 or any(k % 2 == 0 for k in stem_kernel):
            raise UsageError(f"stem_kernel needs three odd sizes (t, h, w), got {list(stem_kernel)}")
        if len(stem_stride) != 3 or stem_stride[1] != stem_stride[2]:
            raise UsageError(f"stem_stride needs three strides (t, h, w) with h = w, got {list(stem_stride)}")
        norm = partial(nn.BatchNorm3d, eps=bn_eps, momentum=bn_momentum)
        kernel, stride = (
            (stem_kernel[0], stem_kernel[1], stem_kernel[2]),
            (stem_stride[0], stem_stride[1], stem_stride[2]),
        )
        stem = conv3d(in_channels, stem_channels, kernel, stride)
        self.stem = nn.Sequential(stem, norm(stem_channels), nn.ReLU(inplace=True))
        steps = {"stem": StageStep(stem_channels, stride[0], stride[1])}
        before = stem_channels
        for i, (width, depth, stride_t, stride_hw, split) in enumerate(zip(*per_stage, strict=True), start=2):
            blocks = [SmallBlock(before, width, stride_t, stride_hw, bool(split), norm)]
            blocks += [SmallBlock(width, width, 1, 1, bool(split), norm) for _ in range(depth - 1)]
            self.add_module(f"res{i}", nn.Sequential(*blocks))
            steps[f"res{i}"] = StageStep(width, stride_t, stride_hw)
            before = width
        self.set_steps(steps)
        self.input_spec = input_spec(
            in_channels,
            normalization,
            num_frames=meant_for[0],
            size_px=meant_for[1],
            stride_frames=2,
            dct_highpass=dct_highpass,
        )
        he_init_(self)


r3d_tiny = register_variant(
    "r3d_tiny",
    SmallR3D,
    "0.4 M parameters, 192 features, strides 4 in time and 16 in space; meant for 8 frames at 48 pixels.",
    fixed={"meant_for": (8, 48)},
    channels=(24, 48, 96, 192),
    layers=(1, 1, 1, 1),
    stem_channels=16,
)
r3d_small = register_variant(
    "r3d_small",
    SmallR3D,
    "2.0 M parameters, 384 features, strides 4 in time and 16 in space; meant for 16 frames at 64 pixels.",
    fixed={"meant_for": (16, 64)},
    channels=(48, 96, 192, 384),
    layers=(1, 1, 2, 1),
    stem_channels=32,
)
