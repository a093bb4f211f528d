"""Which convolutions work on contiguous memory, told from the layout of what they give."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from unreel.nn import InputSpec, create_encoder, wrap_encoder
from unreel.nn.kernels import channels_last, is_channels_last, keep_clear


def is_clear(conv: nn.Conv2d) -> bool:
    """Whether the convolution saw plain memory: its output's layout is its input's."""
    x = torch.randn(2, conv.in_channels, 8, 8).contiguous(memory_format=torch.channels_last)
    return conv(x).is_contiguous()


@pytest.mark.parametrize(
    ("arguments", "clear"),
    [
        ({"in_channels": 2, "kernel_size": 1, "stride": 2}, True),
        ({"in_channels": 7, "kernel_size": 1, "stride": (1, 2)}, True),
        ({"in_channels": 4, "kernel_size": 1, "stride": 3, "bias": False}, True),
        ({"in_channels": 8, "kernel_size": 1, "stride": 2}, False),
        ({"in_channels": 4, "kernel_size": 1, "stride": 1}, False),
        ({"in_channels": 4, "kernel_size": 3, "stride": 2}, False),
        ({"in_channels": 4, "kernel_size": 1, "stride": 2, "groups": 2}, False),
    ],
)
def test_only_what_onednn_gets_wrong_is_laid_out_anew(arguments: dict[str, int], clear: bool) -> None:
    conv = nn.Conv2d(out_channels=12, **arguments)  # type: ignore[arg-type]
    x = torch.randn(2, arguments["in_channels"], 8, 8)
    before = conv(x)
    assert not is_clear(conv)
    keep_clear(nn.Sequential(conv))
    assert is_clear(conv) == clear
    conv.to(memory_format=torch.channels_last)  # the layout of the weights alone would bite, too
    assert conv(x).is_contiguous() == clear
    torch.testing.assert_close(conv(x), before)


def test_it_holds_once_however_often_it_is_asked_for_and_in_copies() -> None:
    conv = nn.Conv2d(4, 12, 1, 2)
    keep_clear(conv)
    keep_clear(nn.ModuleList([conv]))
    assert len(conv._forward_pre_hooks) == 1
    assert is_clear(copy.deepcopy(conv))
    assert is_clear(pickle.loads(pickle.dumps(conv)))


def test_our_nets_and_wrapped_ones_are_kept_clear() -> None:
    net = create_encoder("resnet_18", width=4, seed=0)
    assert is_clear(net.get_submodule("layer2.0.downsample.0"))  # type: ignore[arg-type]
    finer = net.at_resolution(2)
    assert is_clear(finer.get_submodule("layer2.0.downsample.0"))  # type: ignore[arg-type]
    module = nn.Sequential(nn.Conv2d(3, 8, 1, 2))
    wrap_encoder(module, input_spec=InputSpec(num_frames=1, size_px=8))
    assert is_clear(module[0])


def test_channels_last_changes_layout_only() -> None:
    net = nn.Sequential(nn.Conv3d(3, 4, 2), nn.Conv2d(3, 4, 2), nn.Linear(2, 2))
    before = [p.detach().clone() for p in net.parameters()]
    assert not is_channels_last(net)
    channels_last(net)
    assert is_channels_last(net)
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert net[1].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    net[0].weight.data = net[0].weight.data.contiguous()
    assert not is_channels_last(net)
    assert not is_channels_last(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(2, 2)))  # lies both ways: nothing to say
