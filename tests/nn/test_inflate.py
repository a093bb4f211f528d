"""Inflation (docs/methods/cvrl.md, Inflation)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.errors import UsageError
from unreel.nn import create_encoder, inflate, inflate_state_dict, load_weights


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mode", ["mean", "center"])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_check_5_a_kernel_sums_to_the_flat_one_and_agrees_on_static_clips(mode: str, depth: int) -> None:
    flat = random(4, 3, 3, 3)
    deep = inflate(flat, depth, mode)
    torch.testing.assert_close(deep.sum(2), flat)
    image = random(1, 3, 8, 8, seed=1)
    clip = image.unsqueeze(2).expand(-1, -1, 9, -1, -1)
    y = functional.conv3d(clip, deep, padding=(depth // 2, 1, 1))
    inner = y[:, :, depth // 2 : 9 - depth // 2]
    torch.testing.assert_close(inner, functional.conv2d(image, flat, padding=1).unsqueeze(2).expand_as(inner))


def test_center_is_one_frame_and_mean_is_even() -> None:
    flat = random(2, 2, 1, 1)
    center = inflate(flat, 3, "center")
    assert torch.equal(center[:, :, 1], flat)
    assert not center[:, :, [0, 2]].any()
    even = inflate(flat, 3, "mean")
    assert torch.equal(even[:, :, 0], even[:, :, 2])
    assert torch.equal(inflate(flat, 1, "mean"), inflate(flat, 1, "center"))


def test_a_resnet_50_under_torchvision_names_fills_an_r3d_50() -> None:
    with torch.device("meta"):
        source, target = create_encoder("resnet_50"), create_encoder("r3d_50")
    source, target = source.to_empty(device="cpu"), target.to_empty(device="cpu")
    for i, tensor in enumerate(source.state_dict().values()):
        tensor.fill_(i)
    state = {"module." + n: t for n, t in source.state_dict().items()}
    state["module.fc.weight"] = torch.zeros(1000, 2048)
    inflated, report = inflate_state_dict(state, target)
    assert len(report.matched) == 265
    assert not report.missing
    assert not report.misshaped
    assert not report.unexpected
    assert report.prefix == "module."
    deep = [n for n, t in inflated.items() if t.ndim == 5 and t.shape[2] > 1]
    assert len(deep) == 10  # the stem and the first convolutions of res4 and res5
    assert inflated["conv1.weight"].shape == (64, 3, 5, 7, 7)
    torch.testing.assert_close(inflated["layer4.2.conv1.weight"].sum(2), source.get_parameter("layer4.2.conv1.weight"))
    assert torch.equal(inflated["layer3.0.bn1.running_var"], source.get_buffer("layer3.0.bn1.running_var"))


def test_loading_inflated_weights_acts_like_the_flat_net_on_a_static_clip() -> None:
    """With "center" kernels and no temporal stride, border frames apart, every frame sees the 2-D net."""
    target = create_encoder("r3d_50", width=0.125, stem_stride_t=1, seed=0).double().eval()
    flat = {n: t.sum(2) if t.ndim == 5 else t.clone() for n, t in target.state_dict().items()}
    report = load_weights(target, flat, inflate="center")
    assert report.coverage == 1
    image = random(1, 3, 1, 32, 32)
    clip = image.expand(-1, -1, 5, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(target(clip), target(image))


def test_refuses_other_ranks_and_modes() -> None:
    with pytest.raises(UsageError):
        inflate(torch.zeros(2, 2, 1), 3)
    with pytest.raises(UsageError):
        inflate(torch.zeros(2, 2, 1, 1), 0)
    with pytest.raises(UsageError):
        inflate(torch.zeros(2, 2, 1, 1), 3, "sum")  # type: ignore[arg-type]
