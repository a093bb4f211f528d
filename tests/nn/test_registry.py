"""Names, arguments, seeds, counts and shapes without an architecture's details."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.core.settings import describe
from unreel.nn import count_macs, count_parameters, create_encoder, encoder_arguments, list_encoders
from unreel.nn.r3d import r3d_50
from unreel.nn.registry import ENCODERS


def test_names_are_listed_by_pattern() -> None:
    assert {"r3d_50", "r3d_101", "r3d_152", "r3d_tiny", "r3d_small", "resnet_18", "resnet_50", "vit_tiny"} <= set(
        list_encoders()
    )
    assert list_encoders("r3d_1*")[:2] == ["r3d_101", "r3d_152"]
    assert list_encoders("nothing*") == []


def test_unknown_names_and_arguments_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="r3d_50"):
        create_encoder("r3d-50")
    with pytest.raises(UsageError, match="stem_width"):
        create_encoder("r3d_50", stemwidth=3)


@pytest.mark.parametrize("name", list_encoders())
def test_every_argument_is_a_setting_with_a_default(name: str) -> None:
    arguments = encoder_arguments(name)
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in arguments.values())
    settings = {s.name for s in describe(ENCODERS[name])}
    assert settings == set(arguments)


def test_a_direct_call_records_name_and_arguments() -> None:
    with torch.device("meta"):
        encoder = r3d_50(width=2, temporal_kernels=(3, 3, 3, 3))
    assert encoder.architecture == "r3d_50"
    assert encoder.arguments["width"] == 2
    assert encoder.arguments["temporal_kernels"] == [3, 3, 3, 3]
    assert encoder.arguments["padding"] == "symmetric"


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    a, b, c = (create_encoder("r3d_tiny", seed=s).get_parameter("res5.0.conv1.weight") for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        d = create_encoder("r3d_tiny").get_parameter("stem.0.weight")
        e = create_encoder("r3d_tiny").get_parameter("stem.0.weight")
        torch.manual_seed(5)
        f = create_encoder("r3d_tiny").get_parameter("stem.0.weight")
    assert torch.equal(d, f)
    assert not torch.equal(d, e)


def test_macs_and_parameters_of_a_net_small_enough_to_count_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 4 * 4, 5))
    net[3].bias.requires_grad_(False)
    assert count_macs(net, (4, 8, 8)) == 6 * 4 * 4 * 2 * 9
    assert count_macs(net, (4, 8, 8), linear=True) == 6 * 4 * 4 * 2 * 9 + 96 * 5
    assert count_parameters(net) == 6 * 2 * 9 + 6 + 12 + 96 * 5
    assert count_parameters(net, trainable_only=False) == count_parameters(net) + 5 + 12
    assert net.training
    assert net[1].num_batches_tracked == 0
