"""Three-dimensional convolution and max pooling with PyTorch's symmetric padding or TensorFlow's "SAME".

Both give out = ceil(in / stride) for odd kernels; the numbers differ where the total pad is odd: an even size with
stride 2 gets 7-tap (2, 3), 5-tap (1, 2), 3-tap (0, 1) in TensorFlow and (3, 3), (2, 2), (1, 1) here
(docs/methods/cvrl.md, Backbone).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import checked
from unreel.core.errors import UsageError

Padding: TypeAlias = Literal["symmetric", "tf_same"]


def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """TensorFlow's "SAME" pads in the order of ``functional.pad`` (last dimension first, before and after)."""
    pads: list[int] = []
    for size, k, s in zip(reversed(sizes), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return pads


class SameConv3d(nn.Conv3d):
    """``nn.Conv3d`` with "SAME" padding computed from the input's size."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C', ceil(T/s), ceil(H/s), ceil(W/s))."""
        return super().forward(functional.pad(input, same_padding(input.shape[2:], self.kernel_size, self.stride)))


class SameMaxPool3d(nn.MaxPool3d):
    """``nn.MaxPool3d`` with "SAME" padding by −inf computed from the input's size."""

    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, ceil(T/s), ceil(H/s), ceil(W/s))."""
        pads = same_padding(input.shape[2:], self.kernel_size, self.stride)
        if any(pads):  # pad copies even when there is nothing to add
            input = functional.pad(input, pads, value=float("-inf"))
        return super().forward(input)  # type: ignore[no-any-return]


def _check(kernel: Sequence[int]) -> None:
    if any(k < 1 or k % 2 == 0 for k in kernel):
        raise UsageError(f"kernel sizes must be odd, got {tuple(kernel)}")


@checked
def conv3d(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int] = (1, 1, 1),
    *,
    padding: Padding = "symmetric",
    bias: bool = False,
) -> nn.Conv3d:
    """A convolution that keeps ceil(size / stride). Raises UsageError for even kernels and unknown paddings."""
    _check(kernel)
    if padding == "tf_same":
        return SameConv3d(in_channels, out_channels, kernel, stride, bias=bias)
    pads = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(in_channels, out_channels, kernel, stride, pads, bias=bias)


@checked
def max_pool3d(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], *, padding: Padding = "symmetric"
) -> nn.MaxPool3d:
    """A max pool that keeps ceil(size / stride). Raises UsageError for even kernels and unknown paddings."""
    _check(kernel)
    if padding == "tf_same":
        return SameMaxPool3d(kernel, stride)
    return nn.MaxPool3d(kernel, stride, (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))
