"""R3D-18 and R(2+1)D-18: basic-block video ResNets, the backbones of the snippet-order methods.

Source of every number: docs/methods/tcgl.md, Backbones. ``layers=(2, 2, 2, 2)``
is the usual 18-layer net; the tables of VCOP and TCGL have (1, 1, 1, 1), ten layers really, under the same name.

Parameters carry torchvision's names for video ResNets (``stem.0``, ``layer1.0.conv1.0`` …): its R3D-18 is this one and
its weights fit. Its R(2+1)D-18 is another net (45 channels inside the stem, one middle width per block, a plain 1×1×1
shortcut), whose weights are refused. Stages are ``stem``, ``res2`` … ``res5``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, TypeAlias

from torch import Tensor, nn

from unreel.core.checks import Amount, Count, Positive, Range
from unreel.core.errors import UsageError
from unreel.nn.padding import conv3d
from unreel.nn.registry import register_variant
from unreel.nn.staged import Normalization, StagedEncoder, StageStep, he_init_, input_spec

Size3: TypeAlias = tuple[int, int, int]
#: (in channels, out channels, kernel, stride) → one convolution
MakeConv: TypeAlias = Callable[[int, int, Size3, Size3], nn.Module]


def middle_width(in_channels: int, out_channels: int, kernel: Size3) -> int:
    """Channels between the spatial and the temporal half of a factored convolution, ≥ 1.

    floor(kt·kh·kw·cin·cout / (kh·kw·cin + kt·cout)): as many parameters as the whole convolution (docs/methods/tcgl.md,
    Backbones).
    """
    time, area = kernel[0], kernel[1] * kernel[2]
    return max(1, (time * area * in_channels * out_channels) // (area * in_channels + time * out_channels))


class BasicBlock3d(nn.Module):
    """Two 3×3×3 convolutions with batch norm, a 1×1×1 one as the shortcut where the shape changes."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, conv: MakeConv, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        kernel, strides = (3, 3, 3), (stride, stride, stride)
        first = conv(in_channels, channels, kernel, strides)
        self.conv1 = nn.Sequential(first, norm(channels), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(conv(channels, channels, kernel, (1, 1, 1)), norm(channels))
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(conv(in_channels, channels, (1, 1, 1), strides), norm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C', ceil(T/s), ceil(H/s), ceil(W/s))."""
        y = self.conv2(self.conv1(x))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


class BasicR3D(StagedEncoder):
    """The R3D-18 family, whole or factored.

    Args:
        factored: every convolution, the 1×1×1 shortcuts included, is a spatial one, batch norm, ReLU and a temporal
            one, with ``middle_width`` channels between them.
        layers: blocks of each stage; (1, 1, 1, 1) is the net of VCOP's and most of TCGL's tables.
        width: channels of the stem and of the first stage; the others have 2, 4 and 8 times as many.
        size: pixels of a side that the input spec asks for.
        in_channels: 3, or 1 for grey clips.
        normalization: "none" as in the papers, or "imagenet" statistics.
        dct_highpass: how many of a clip's lowest temporal frequencies ``prepare`` takes away; TCGL takes 1, the mean.
        bn_eps, bn_momentum: of every batch norm.
    Raises: UsageError for ``layers`` that are not four numbers of at least 1.
    """

    def __init__(
        self,
        *,
        factored: bool,
        layers: Sequence[int] = (2, 2, 2, 2),
        width: Count = 64,
        size: Count = 112,
        in_channels: Count = 3,
        normalization: Normalization = "none",
        dct_highpass: Amount = 0,
        bn_eps: Positive = 1e-5,
        bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.1,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or min(layers) < 1:
            raise UsageError(f"layers needs one number of blocks for each of res2 … res5, got {list(layers)}")

        norm = partial(nn.BatchNorm3d, eps=bn_eps, momentum=bn_momentum)

        def conv(cin: int, cout: int, kernel: Size3, stride: Size3) -> nn.Module:
            if not factored:
                return conv3d(cin, cout, kernel, stride)
            middle = middle_width(cin, cout, kernel)
            return nn.Sequential(
                conv3d(cin, middle, (1, kernel[1], kernel[2]), (1, stride[1], stride[2])),
                norm(middle),
                nn.ReLU(inplace=True),
                conv3d(middle, cout, (kernel[0], 1, 1), (stride[0], 1, 1)),
            )

        first = conv(in_channels, width, (3, 7, 7), (1, 2, 2))
        flat = first if isinstance(first, nn.Sequential) else [first]
        self.stem = nn.Sequential(*flat, norm(width), nn.ReLU(inplace=True))
        steps = {"stem": StageStep(width, 1, 2)}
        channels = width
        for i, depth in enumerate(layers):
            stride, wider = 1 if i == 0 else 2, width * 2**i
            blocks = [BasicBlock3d(channels, wider, stride=stride, conv=conv, norm=norm)]
            blocks += [BasicBlock3d(wider, wider, stride=1, conv=conv, norm=norm) for _ in range(depth - 1)]
            channels = wider
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            steps[f"res{i + 2}"] = StageStep(channels, stride, stride, (f"layer{i + 1}",))
        self.set_steps(steps)
        self.input_spec = input_spec(in_channels, normalization, num_frames=16, size_px=size, dct_highpass=dct_highpass)
        he_init_(self)


r3d_18 = register_variant(
    "r3d_18",
    BasicR3D,
    "R3D-18: 33,166,272 parameters, 512 features, strides 8 in time and 16 in space (docs/methods/tcgl.md, Backbones).",
    fixed={"factored": False},
)
r2plus1d_18 = register_variant(
    "r2plus1d_18",
    BasicR3D,
    "R(2+1)D-18: 33,178,423 parameters, 512 features (docs/methods/tcgl.md, Backbones).",
    fixed={"factored": True},
)
