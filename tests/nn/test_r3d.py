"""R3D (docs/methods/cvrl.md, Backbone)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.contracts.encoder_suite import stage_shapes
from unreel.core.errors import UsageError
from unreel.nn import Encoder, count_macs, count_parameters, create_encoder
from unreel.nn.r3d import fan_in_truncated_normal_


def meta(name: str, **arguments: object) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name, **arguments)


def kernels_and_affine(module: nn.Module) -> tuple[int, int]:
    kernels = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Conv3d))
    affine = sum(m.weight.numel() + m.bias.numel() for m in module.modules() if isinstance(m, nn.BatchNorm3d))
    return kernels, affine


@pytest.mark.parametrize(
    ("name", "arguments", "trainable", "with_buffers", "gmac"),
    [
        ("r3d_50", {}, 31_672_128, 31_725_248, (45.516, 91.033, 118.900)),
        ("r3d_101", {}, 59_577_152, 59_682_496, (89.190, 178.379, 232.985)),
        ("r3d_152", {}, 82_036_544, 82_187_968, (129.575, 259.149, 338.480)),
        ("r3d_50", {"width": 2}, 126_488_192, 126_594_432, (172.625, 345.249, 450.938)),
        ("r3d_152", {"width": 2}, 327_749_248, 328_052_096, (508.857, 1017.714, 1329.259)),
        ("r3d_152", {"width": 2, "stem_width": 64}, 327_661_120, 327_963_840, (503.109, 1006.217, 1314.243)),
    ],
)
def test_check_1_counts_of_the_family(
    name: str, arguments: dict[str, object], trainable: int, with_buffers: int, gmac: tuple[float, float, float]
) -> None:
    encoder = meta(name, **arguments)
    assert count_parameters(encoder) == trainable
    assert count_parameters(encoder, trainable_only=False) == with_buffers
    shapes = ((3, 16, 224, 224), (3, 32, 224, 224), (3, 32, 256, 256))
    assert tuple(round(count_macs(encoder, s) / 1e9, 3) for s in shapes) == gmac


def test_check_1_kernels_and_batch_norms_by_stage() -> None:
    encoder = meta("r3d_50")
    assert kernels_and_affine(encoder) == (31_619_008, 53_120)
    expected = {
        "res2": (212_992, 2_816),
        "res3": (1_212_416, 7_168),
        "res4": (9_961_472, 20_480),
        "res5": (20_185_088, 22_528),
    }
    assert {name: kernels_and_affine(encoder.stage(name)) for name in expected} == expected
    assert kernels_and_affine(meta("r3d_101").stage("res4")) == (37_814_272, 72_704)
    deep = meta("r3d_152")
    assert kernels_and_affine(deep.stage("res3")) == (2_326_528, 13_312)
    assert kernels_and_affine(deep.stage("res4")) == (59_113_472, 112_640)


def test_check_1_the_counting_rule_gives_the_public_slow_r50() -> None:
    slow = meta("r3d_50", stem_kernel_t=1, stem_stride_t=1)
    assert count_parameters(slow) + 400 * (2048 + 1) == 32_454_096
    assert round(count_macs(slow, (3, 8, 256, 256)) / 1e9, 2) == 54.52


def test_check_3_shapes_and_macs() -> None:
    encoder = meta("r3d_50")
    assert list(stage_shapes(encoder, (3, 16, 224, 224)).values()) == [
        (64, 8, 112, 112),
        (64, 8, 56, 56),
        (256, 8, 56, 56),
        (512, 8, 28, 28),
        (1024, 8, 14, 14),
        (2048, 8, 7, 7),
    ]
    small = [s[1:] for s in stage_shapes(encoder, (3, 8, 112, 112)).values()]
    assert small == [(4, 56, 56), (4, 28, 28), (4, 28, 28), (4, 14, 14), (4, 7, 7), (4, 4, 4)]
    assert stage_shapes(encoder, (3, 32, 256, 256))["res5"] == (2048, 16, 8, 8)
    assert count_macs(encoder, (3, 8, 112, 112)) == 5_968_740_352
    assert count_macs(encoder, (3, 16, 112, 112)) == 11_937_480_704


def numbered(padding: str) -> tuple[Encoder, Tensor]:
    """The net and the clip whose features were worked out apart, in float64."""
    encoder = meta("r3d_50", padding=padding).double().to_empty(device="cpu").eval()
    with torch.no_grad():
        for m in encoder.modules():
            if isinstance(m, nn.Conv3d):
                m.weight.fill_(1 / m.weight[0].numel())
            elif isinstance(m, nn.BatchNorm3d):
                assert m.eps == 1e-5
                m.reset_parameters()
    c, t, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (3, 16, 64, 64)), indexing="ij")
    return encoder, (0.5 + 0.5 * torch.sin(0.37 * (c + 1) * (t + 1) + 0.11 * y - 0.07 * x))[None]


@pytest.mark.parametrize(("padding", "feature"), [("symmetric", 4058.747413), ("tf_same", 4234.810328)])
def test_check_4_numeric_forward(padding: str, feature: float) -> None:
    encoder, clip = numbered(padding)
    with torch.no_grad():
        maps = encoder.forward_features(clip, list(encoder.stage_info))
        features = encoder(clip)
    assert features.shape == (1, 2048)
    torch.testing.assert_close(features, torch.full_like(features, feature), atol=5e-7, rtol=0)
    if padding == "symmetric":
        means = {"stem": 0.439308327, "pool": 0.483188427, "res2": 3.488974388, "res3": 45.115958135}
        means["res4"] = 1197.889846752
        for name, mean in means.items():
            assert maps[name].mean().item() == pytest.approx(mean, abs=6e-10), name


def test_check_6_time_reversal() -> None:
    clip = torch.rand(1, 3, 8, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sees = create_encoder("r3d_50", width=0.125, seed=1).double().eval()
        change = (sees(clip) - sees(clip.flip(2))).abs().max() / sees(clip).abs().max()
        assert change > 1e-3
        blind = create_encoder(
            "r3d_50", width=0.125, temporal_kernels=(1, 1, 1, 1), stem_kernel_t=1, stem_stride_t=1, seed=1
        )
        blind = blind.double().eval()
        torch.testing.assert_close(blind(clip), blind(clip.flip(2)), atol=1e-12, rtol=1e-10)


def test_each_temporal_kernel_sits_on_the_first_convolution_of_every_block_of_its_stage() -> None:
    encoder = meta("r3d_50", temporal_kernels=(3, 1, 5, 3))
    for stage, kernel in zip(("res2", "res3", "res4", "res5"), (3, 1, 5, 3), strict=True):
        for block in encoder.stage(stage).children():
            assert block.conv1.kernel_size == (kernel, 1, 1)
            assert block.conv2.kernel_size == (1, 3, 3)


def test_pool_looks_along_time_only_when_it_strides_there() -> None:
    assert meta("r3d_50").stage("pool").kernel_size == (1, 3, 3)
    strided = meta("r3d_50", pool_stride_t=2)
    assert strided.stage("pool").kernel_size == (3, 3, 3)
    assert strided.stage_info["res5"].stride_t == 4


def test_initialisation_is_a_truncated_normal_of_variance_one_over_fan_in() -> None:
    weight = torch.empty(64, 32, 3, 5, 5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fan_in_truncated_normal_(weight)
    fan_in = 32 * 3 * 5 * 5
    assert weight.var().item() * fan_in == pytest.approx(1, abs=0.02)
    # two standard deviations of the normal before truncation
    assert weight.abs().max().item() * math.sqrt(fan_in) <= 2 / 0.8796 + 1e-3
    encoder = create_encoder("r3d_50", width=0.125, seed=0)
    assert all(m.weight.eq(1).all() for m in encoder.modules() if isinstance(m, nn.BatchNorm3d))
    identity = create_encoder("r3d_50", width=0.125, zero_init_residual=True, init="he", seed=0)
    assert not identity.stage("res3")[0].bn3.weight.any()


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0},
        {"width": 0.33},
        {"stem_width": 0},
        {"temporal_kernels": (1, 1, 3)},
        {"temporal_kernels": (1, 1, 2, 3)},
        {"padding": "valid"},
        {"init": "xavier"},
        {"normalization": "imagenette"},
        {"in_channels": 2, "normalization": "imagenet"},
    ],
)
def test_refuses_what_cannot_be(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        meta("r3d_50", **arguments)
