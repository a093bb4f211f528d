"""R3D-18 and R(2+1)D-18 (docs/methods/tcgl.md, Backbones): counts at every depth, middle widths, shapes, layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.contracts.encoder_suite import stage_shapes
from unreel.core.errors import UsageError
from unreel.nn import Encoder, count_parameters, create_encoder
from unreel.nn.r3d_18 import middle_width

NETS = ("r3d_18", "r2plus1d_18")
COUNTS = {
    (1, 1, 1, 1): (14_361_792, 14_365_303),
    (2, 2, 2, 2): (33_166_272, 33_178_423),
    (3, 4, 6, 3): (63_475_904, 63_504_759),
}


def meta(name: str, **arguments: object) -> Encoder:
    with torch.device("meta"):
        return create_encoder(name, **arguments)


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomised(encoder: Encoder) -> dict[str, Tensor]:
    """The state of an encoder whose norms do something."""
    generator = torch.Generator().manual_seed(2)
    for name, tensor in encoder.state_dict().items():
        if tensor.ndim == 1:
            offset = 0.0 if name.endswith(("bias", "running_mean")) else 0.5
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + offset)
    return encoder.state_dict()


@pytest.mark.parametrize("layers", list(COUNTS))
def test_check_1_counts(layers: tuple[int, ...]) -> None:
    for name, count in zip(NETS, COUNTS[layers], strict=True):
        encoder = meta(name, layers=layers)
        assert count_parameters(encoder) == count
        assert encoder.num_features == 512


def test_check_1_counts_with_a_classifier() -> None:
    whole, factored = (meta(name, layers=(1, 1, 1, 1)) for name in NETS)
    assert count_parameters(whole) + 101 * 513 == 14_413_605
    assert count_parameters(factored) + 101 * 513 == 14_417_116
    assert meta("r3d_18").arguments["layers"] == [2, 2, 2, 2]
    assert count_parameters(meta("r3d_18")) + 101 * 513 == 33_218_085
    assert count_parameters(meta("r3d_18")) + 400 * 513 == 33_371_472


def test_middle_widths() -> None:
    encoder = meta("r2plus1d_18")
    widths = {n: p.shape[0] for n, p in encoder.named_parameters() if p.ndim == 5 and p.shape[2] == 1}
    assert widths["stem.0.weight"] == 83
    assert [widths[f"layer1.{b}.conv{c}.0.0.weight"] for b in (0, 1) for c in (1, 2)] == [144] * 4
    for stage, (shortcut, first, second) in enumerate([(42, 230, 288), (85, 460, 576), (170, 921, 1152)], start=2):
        assert widths[f"layer{stage}.0.downsample.0.0.weight"] == shortcut
        assert widths[f"layer{stage}.0.conv1.0.0.weight"] == first
        assert widths[f"layer{stage}.0.conv2.0.0.weight"] == second
        assert widths[f"layer{stage}.1.conv1.0.0.weight"] == second
    assert middle_width(1, 1, (1, 1, 1)) == 1


@pytest.mark.parametrize("name", NETS)
def test_check_2_shapes(name: str) -> None:
    encoder = meta(name, layers=(1, 1, 1, 1))
    assert stage_shapes(encoder, (3, 16, 112, 112)) == {
        "stem": (64, 16, 56, 56),
        "res2": (64, 16, 56, 56),
        "res3": (128, 8, 28, 28),
        "res4": (256, 4, 14, 14),
        "res5": (512, 2, 7, 7),
    }
    frames = [shape[1] for shape in stage_shapes(encoder, (3, 4, 112, 112)).values()]
    assert frames == [4, 4, 2, 1, 1]
    last = torch.empty(1, *stage_shapes(encoder, (3, 16, 112, 112))["res5"], device="meta")
    assert functional.max_pool3d(last, (1, 2, 2)).flatten(1).shape == (1, 9_216)
    assert functional.max_pool3d(last, (2, 5, 5)).flatten(1).shape == (1, 512)
    assert encoder(torch.empty(2, 3, 4, 112, 112, device="meta")).shape == (2, 512)


def test_names_are_torchvisions() -> None:
    """Of its r3d_18, without ``fc``, written out; of its r2plus1d_18 where the net is the same."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"stem.0.weight", *(f"stem.1.{n}" for n in norm)}
    for i in range(1, 5):
        for b in range(2):
            for c in (1, 2):
                names |= {f"layer{i}.{b}.conv{c}.0.weight", *(f"layer{i}.{b}.conv{c}.1.{n}" for n in norm)}
        if i > 1:
            names |= {f"layer{i}.0.downsample.0.weight", *(f"layer{i}.0.downsample.1.{n}" for n in norm)}
    assert set(meta("r3d_18").state_dict()) == names
    factored = set(meta("r2plus1d_18").state_dict())
    assert {"stem.0.weight", "stem.1.weight", "stem.3.weight", "stem.4.weight"} <= factored
    for part in ("conv1.0.0", "conv1.0.1", "conv1.0.3", "conv1.1", "conv2.0.0", "conv2.0.3", "conv2.1"):
        assert f"layer3.1.{part}.weight" in factored


def test_a_block_is_the_papers() -> None:
    """Stage res3 of the shallow R3D once more: convolutions without bias, the stride in the first and the shortcut."""
    encoder = create_encoder("r3d_18", layers=(1, 1, 1, 1), width=2, seed=0).double().eval()
    state = randomised(encoder)

    def layer(x: Tensor, name: str, stride: int | tuple[int, ...], padding: int | tuple[int, ...]) -> Tensor:
        x = functional.conv3d(x, state[f"{name}.0.weight"], None, stride, padding)
        return functional.batch_norm(
            x, *[state[f"{name}.1.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        )

    x = clips(2, 3, 5, 17, 16)
    maps = encoder.forward_features(x, ["stem", "res2", "res3"])
    stem = layer(x, "stem", (1, 2, 2), (1, 3, 3)).relu()
    torch.testing.assert_close(maps["stem"], stem)
    res2 = (stem + layer(layer(stem, "layer1.0.conv1", 1, 1).relu(), "layer1.0.conv2", 1, 1)).relu()
    torch.testing.assert_close(maps["res2"], res2)
    y = layer(layer(res2, "layer2.0.conv1", 2, 1).relu(), "layer2.0.conv2", 1, 1)
    res3 = (layer(res2, "layer2.0.downsample", 2, 0) + y).relu()
    torch.testing.assert_close(maps["res3"], res3)


def test_a_factored_convolution_is_spatial_then_temporal() -> None:
    encoder = create_encoder("r2plus1d_18", width=2, seed=0)
    for name, stride in (("layer2.0.conv1.0", 2), ("layer2.0.downsample.0", 2), ("layer2.0.conv2.0", 1)):
        spatial, norm, relu, temporal = encoder.get_submodule(name).children()
        side = 1 if "downsample" in name else 3
        assert (spatial.kernel_size, spatial.stride) == ((1, side, side), (1, stride, stride))
        assert (temporal.kernel_size, temporal.stride) == ((side, 1, 1), (stride, 1, 1))
        assert isinstance(norm, nn.BatchNorm3d)
        assert isinstance(relu, nn.ReLU)
        assert spatial.bias is None
        assert temporal.bias is None
    # With as many parameters as the whole, but for the norms inside and what the floor takes away.
    whole = create_encoder("r3d_18", width=16, seed=0)
    factored = create_encoder("r2plus1d_18", width=16, seed=0)
    kernels = [sum(p.numel() for p in e.parameters() if p.ndim == 5) for e in (whole, factored)]
    assert 0.98 * kernels[0] < kernels[1] <= kernels[0]


@pytest.mark.parametrize("name", NETS)
def test_impossible_nets_are_refused(name: str) -> None:
    for layers in ((1, 1, 1), (1, 0, 1, 1)):
        with pytest.raises(UsageError, match="res2 … res5"):
            create_encoder(name, layers=layers)
    with pytest.raises(UsageError, match="width"):
        create_encoder(name, width=0)
