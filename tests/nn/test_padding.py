"""TensorFlow's "SAME" against worked pads and a slow loop."""

from __future__ import annotations

import pytest
import torch

from unreel.core.errors import UsageError
from unreel.nn.padding import SameConv3d, conv3d, max_pool3d, same_padding


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 7, 2, (2, 3)),
        (16, 5, 2, (1, 2)),
        (112, 3, 2, (0, 1)),
        (7, 3, 2, (1, 1)),
        (9, 3, 1, (1, 1)),
        (8, 1, 2, (0, 0)),
    ],
)
def test_pads_of_the_specification(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert tuple(same_padding([size], [kernel], [stride])) == pads


@pytest.mark.parametrize("padding", ["symmetric", "tf_same"])
@pytest.mark.parametrize("sizes", [(4, 8, 8), (5, 7, 9), (1, 2, 3)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (1, 2, 2)])
def test_sizes_are_ceilings(padding: str, sizes: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    x = torch.zeros(1, 2, *sizes)
    expected = tuple(-(-n // s) for n, s in zip(sizes, stride, strict=True))
    assert conv3d(2, 3, (3, 5, 7), stride, padding=padding)(x).shape[2:] == expected
    assert max_pool3d((3, 3, 3), stride, padding=padding)(x).shape[2:] == expected


def test_same_convolution_in_a_slow_loop() -> None:
    conv = conv3d(1, 1, (3, 3, 3), (2, 2, 2), padding="tf_same").double().requires_grad_(False)
    assert isinstance(conv, SameConv3d)
    x = torch.randn(1, 1, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = conv(x)
    for t, i, j in [(a, b, c) for a in range(2) for b in range(3) for c in range(3)]:
        total = 0.0
        # an even size starts its window at the index itself, an odd one a pixel before
        t0, i0, j0 = 2 * t, 2 * i - 1, 2 * j
        for a, b, c in [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]:
            if 0 <= t0 + a < 4 and 0 <= i0 + b < 5 and 0 <= j0 + c < 6:
                total += float(conv.weight[0, 0, a, b, c] * x[0, 0, t0 + a, i0 + b, j0 + c])
        assert y[0, 0, t, i, j].item() == pytest.approx(total, abs=1e-12)


def test_same_pool_pads_with_minus_infinity() -> None:
    x = torch.full((1, 1, 2, 4, 4), -5.0)
    assert max_pool3d((3, 3, 3), (2, 2, 2), padding="tf_same")(x).eq(-5).all()


def test_even_kernels_and_unknown_paddings_are_refused() -> None:
    with pytest.raises(UsageError, match="odd"):
        conv3d(1, 1, (2, 3, 3))
    with pytest.raises(UsageError, match="symmetric"):
        max_pool3d((1, 3, 3), (1, 2, 2), padding="valid")  # type: ignore[arg-type]
