"""What is particular to the small nets, the 2-D ResNets and the transformer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.nn import count_macs, count_parameters, create_encoder
from unreel.nn.vit_tiny import TubeletViT, sincos_axis


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# -- small 3-D nets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "low", "high"), [("r3d_tiny", 0.3e6, 0.6e6), ("r3d_small", 2e6, 4e6)])
def test_small_nets_are_small_and_see_the_arrow_of_time(name: str, low: float, high: float) -> None:
    encoder = create_encoder(name, seed=0).double().eval()
    assert low <= count_parameters(encoder) <= high
    x = clips(1, 3, 8, 32, 32)
    with torch.no_grad():
        forward, backward = encoder(x), encoder(x.flip(2))
        stem = encoder.forward_features(x, ["stem"])["stem"]
        reversed_stem = encoder.forward_features(x.flip(2), ["stem"])["stem"].flip(2)
    assert (forward - backward).abs().max() > 1e-3 * forward.abs().max()
    assert (stem - reversed_stem).abs().max() > 1e-3 * stem.abs().max()


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(UsageError, match="one entry per stage"):
        create_encoder("r3d_tiny", layers=(1, 1, 1))
    with pytest.raises(UsageError, match="odd"):
        create_encoder("r3d_tiny", stem_kernel=(2, 5, 5))
    with pytest.raises(UsageError, match="h = w"):
        create_encoder("r3d_tiny", stem_stride=(1, 2, 4))


def test_a_stem_of_stride_four_cannot_be_refined_past_its_stages() -> None:
    encoder = create_encoder("r3d_tiny", stem_stride=(1, 4, 4), spatial_strides=(1, 1, 2, 1))
    assert encoder.at_resolution(2).stage_info["res5"].stride_hw == 4
    with pytest.raises(UsageError, match="refine"):
        encoder.at_resolution(4)
    with pytest.raises(UsageError, match="already"):
        encoder.at_resolution(2).at_resolution(2)


@pytest.mark.parametrize("name", ["r3d_50", "resnet_18"])
def test_refining_undoes_the_last_strides_first(name: str) -> None:
    with torch.device("meta"):
        encoder = create_encoder(name)
        strides = [
            [f.stage_info[s].stride_hw for s in ("stem", "pool", "res2", "res3", "res4", "res5")]
            for f in (encoder, encoder.at_resolution(2), encoder.at_resolution(4))
        ]
    assert strides == [[2, 4, 4, 8, 16, 32], [2, 4, 4, 8, 16, 16], [2, 4, 4, 8, 8, 8]]


# -- 2-D nets ------------------------------------------------------------------------------------------------------


def torchvision_names(layers: tuple[int, ...], convs: int, projected: tuple[bool, ...]) -> set[str]:
    """The names of torchvision's ResNets without ``fc``, written out."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", *(f"bn1.{n}" for n in norm)}
    for i, (depth, project) in enumerate(zip(layers, projected, strict=True), start=1):
        for b in range(depth):
            for c in range(1, convs + 1):
                names |= {f"layer{i}.{b}.conv{c}.weight", *(f"layer{i}.{b}.bn{c}.{n}" for n in norm)}
        if project:
            names |= {f"layer{i}.0.downsample.0.weight", *(f"layer{i}.0.downsample.1.{n}" for n in norm)}
    return names


def test_resnets_carry_torchvisions_names_and_counts() -> None:
    with torch.device("meta"):
        deep, flat = create_encoder("resnet_50"), create_encoder("resnet_18")
    assert set(deep.state_dict()) == torchvision_names((3, 4, 6, 3), 3, (True, True, True, True))
    assert set(flat.state_dict()) == torchvision_names((2, 2, 2, 2), 2, (False, True, True, True))
    # With the classifier of 1000 classes, the public counts
    assert count_parameters(deep) + 1000 * 2049 == 25_557_032
    assert count_parameters(flat) + 1000 * 513 == 11_689_512
    assert round(count_macs(deep, (3, 1, 224, 224)) / 1e9, 3) == 4.087  # "4.09 GMAC", the usual figure less fc
    assert deep.get_submodule("layer2.0.conv2").stride == (2, 2)
    with torch.device("meta"):
        small = [create_encoder(name, stem="cifar") for name in ("resnet_50", "resnet_18")]
    for one, other in zip(small, (deep, flat), strict=True):  # the same names; 3 × 3 without a stride, no pooling
        shapes, others = ({n: t.shape for n, t in net.state_dict().items()} for net in (one, other))
        assert shapes.pop("conv1.weight") == (64, 3, 3, 3)
        assert others.pop("conv1.weight") == (64, 3, 7, 7)
        assert shapes == others
        assert one.forward_features(torch.empty(1, 3, 1, 32, 32, device="meta"))["res5"].shape[-2:] == (4, 4)


def test_every_frame_is_encoded_by_itself() -> None:
    encoder = create_encoder("resnet_18", seed=0).double().eval()
    x = clips(2, 3, 3, 32, 32)
    with torch.no_grad():
        together = encoder.forward_features(x, ["stem", "res4"])
        for t in range(3):
            alone = encoder.forward_features(x[:, :, t : t + 1], ["stem", "res4"])
            for name, feature_map in alone.items():
                torch.testing.assert_close(together[name][:, :, t : t + 1], feature_map)
        torch.testing.assert_close(encoder(x), encoder(x.flip(2)))


def test_zero_init_residual_makes_blocks_identities() -> None:
    encoder = create_encoder("resnet_18", zero_init_residual=True, stem="cifar", seed=0).double().eval()
    with torch.no_grad():
        maps = encoder.forward_features(clips(1, 3, 1, 8, 8), ["stem", "res2"])
    torch.testing.assert_close(maps["res2"], maps["stem"])
    with pytest.raises(UsageError, match="stem"):
        create_encoder("resnet_18", stem="vgg")


# -- transformer ---------------------------------------------------------------------------------------------------


def test_the_transformer_has_a_million_parameters() -> None:
    assert 0.9e6 < count_parameters(create_encoder("vit_tiny")) < 1.2e6


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_positions_tell_time_and_place(positions: str) -> None:
    """Without positions, attention would not notice tokens that change places."""
    encoder = create_encoder("vit_tiny", positions=positions, depth=1, seed=0).double().eval()
    x = clips(1, 3, 8, 32, 32)
    swapped_time = torch.cat([x[:, :, 4:], x[:, :, :4]], 2)
    swapped_rows = torch.cat([x[..., 16:, :], x[..., :16, :]], 3)
    swapped_columns = torch.cat([x[..., 16:], x[..., :16]], 4)
    with torch.no_grad():
        for other in (swapped_time, swapped_rows, swapped_columns):
            assert (encoder(x) - encoder(other)).abs().max() > 1e-5


def test_positions_are_scaled_to_the_native_grid() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    native = sincos_axis(4, 4, 6, like)
    torch.testing.assert_close(native[:, 0], torch.arange(4, dtype=torch.float64).sin())
    torch.testing.assert_close(native[:, 3], torch.arange(4, dtype=torch.float64).cos())
    finer = sincos_axis(8, 4, 6, like)
    torch.testing.assert_close(finer[:2, 0], torch.tensor([-0.25, 0.25], dtype=torch.float64).sin())
    encoder = create_encoder("vit_tiny", positions="learned", seed=0)
    assert isinstance(encoder, TubeletViT)
    table = encoder.embed.position(torch.zeros(1, 128, 4, 8, 8))
    torch.testing.assert_close(table, encoder.embed.position_t[..., None, None] + encoder.embed.position_hw[:, :, None])


def test_an_image_is_a_static_clip() -> None:
    encoder = create_encoder("vit_tiny", depth=1, seed=0).double().eval()
    image = clips(1, 3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder(image), encoder(image.expand(-1, -1, 2, -1, -1)))


def test_finer_patches_keep_their_weights_and_overlap() -> None:
    encoder = create_encoder("vit_tiny", depth=1, seed=0).double().eval()
    assert isinstance(encoder, TubeletViT)
    finer = encoder.at_resolution(2)
    assert isinstance(finer, TubeletViT)
    x = clips(1, 3, 2, 32, 32)
    with torch.no_grad():
        fine = finer.embed(x) - finer.embed.position(finer.embed(x))
        # A finer patch starts two pixels before every fourth pixel; shifted there, the coarse patches are the same.
        coarse = encoder.embed(x[..., 2:26, 2:26])
        coarse = coarse - encoder.embed.position(coarse)
    torch.testing.assert_close(fine[..., 1:6:2, 1:6:2], coarse)
    with pytest.raises(UsageError, match="1/4"):
        create_encoder("vit_tiny", patch=6, depth=1).at_resolution(4)


@pytest.mark.parametrize("arguments", [{"heads": 3}, {"depth": 0}, {"tubelet": 0}, {"positions": "rotary"}])
def test_impossible_transformers_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        create_encoder("vit_tiny", **arguments)
