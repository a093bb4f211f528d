"""C3D (docs/methods/tcgl.md, Backbones): counts, shapes, short clips, order of layers, finer copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.contracts.encoder_suite import stage_shapes
from unreel.core.errors import UsageError
from unreel.nn import Encoder, count_parameters, create_encoder


def tiny(**arguments: object) -> Encoder:
    return create_encoder("c3d", width=2, seed=0, **arguments).double().eval()


def clips(*shape: int) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_check_1_counts() -> None:
    with torch.device("meta"):
        encoder = create_encoder("c3d")
    assert count_parameters(encoder) == 27_661_440
    assert encoder.num_features == 512
    assert count_parameters(encoder) + 101 * 513 == 27_713_253
    assert count_parameters(torch.nn.Linear(512, 101)) == 101 * 513 == 51_813


def test_check_2_shapes_and_the_flattened_feature() -> None:
    with torch.device("meta"):
        encoder = create_encoder("c3d")
    assert stage_shapes(encoder, (3, 16, 112, 112)) == {
        "conv1": (64, 16, 112, 112),
        "conv2": (128, 16, 56, 56),
        "conv3": (256, 8, 28, 28),
        "conv4": (512, 4, 14, 14),
        "conv5": (512, 2, 7, 7),
    }
    assert stage_shapes(encoder, (3, 8, 112, 112))["conv5"] == (512, 1, 7, 7)
    last = torch.empty(1, *stage_shapes(encoder, (3, 16, 112, 112))["conv5"], device="meta")
    assert functional.max_pool3d(last, (1, 2, 2)).flatten(1).shape == (1, 9_216)
    assert encoder.stage_info["conv5"] == (512, 8, 16)
    assert (encoder.input_spec.num_frames, encoder.input_spec.size_px, encoder.input_spec.min_frames) == (16, 112, 8)


@pytest.mark.parametrize("frames", [4, 7])
def test_check_2_short_clips_are_refused_and_repeated_by_prepare(frames: int) -> None:
    encoder, short = tiny(dct_highpass=1), clips(2, 3, frames, 16, 16)
    for names in (None, ["conv1"]):
        with pytest.raises(UsageError, match=f"at least 8 frames, got {frames}; encoder.prepare"):
            encoder.forward_features(short, names)
    with pytest.raises(UsageError, match="at least 8"):
        encoder(short)
    prepared = encoder.prepare(short)
    own = short - short.mean(2, keepdim=True)  # of its own frames, before they are repeated
    torch.testing.assert_close(prepared, torch.cat([own, own], 2))
    with torch.no_grad():
        assert encoder(prepared).shape == (2, 16)
        assert encoder(encoder.prepare(clips(1, 3, 16, 16, 16))).shape == (1, 16)


def test_layers_are_the_papers_in_their_order() -> None:
    """The same net written out once more: convolution with bias, batch norm, ReLU; pools that round down."""
    encoder = tiny()
    generator = torch.Generator().manual_seed(2)
    for name, tensor in encoder.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        elif name.endswith("running_var") or (name.startswith("bn") and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    state = encoder.state_dict()

    def layer(x: Tensor, name: str) -> Tensor:
        x = functional.conv3d(x, state[f"conv{name}.weight"], state[f"conv{name}.bias"], padding=1)
        norm = [state[f"bn{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(x, *norm).relu()

    x = clips(2, 3, 16, 32, 32)
    y = functional.max_pool3d(layer(x, "1"), (1, 2, 2))
    y = functional.max_pool3d(layer(y, "2"), 2)
    y = functional.max_pool3d(layer(layer(y, "3a"), "3b"), 2)
    y = functional.max_pool3d(layer(layer(y, "4a"), "4b"), 2)
    y = layer(layer(y, "5a"), "5b")
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_features(x)["conv5"], y)
        torch.testing.assert_close(encoder(x), functional.adaptive_avg_pool3d(y, 1).flatten(1))


def test_pools_round_up_and_ignore_what_they_add() -> None:
    pool = tiny().get_submodule("pool2")
    x = -1 - clips(1, 1, 3, 5, 4)
    torch.testing.assert_close(pool(x), functional.max_pool3d(x, 2, ceil_mode=True))
    assert pool(x).max() < 0


@pytest.mark.parametrize("factor", [2, 4])
def test_a_finer_pool_holds_the_coarse_one_at_every_second_place(factor: int) -> None:
    encoder = tiny()
    finer = encoder.at_resolution(factor)
    x = clips(1, 2, 8, 12, 10)
    for name in ("pool3", "pool4")[-1 if factor == 2 else 0 :]:
        fine, coarse = finer.get_submodule(name)(x), encoder.get_submodule(name)(x)
        assert fine.shape == (1, 2, 4, 12, 10)
        assert torch.equal(fine[..., ::2, ::2], coarse)
    strides = [finer.stage_info[f"conv{i}"].stride_hw for i in range(1, 6)]
    assert strides == ([1, 2, 4, 8, 8] if factor == 2 else [1, 2, 4, 4, 4])
    assert [finer.stage_info[f"conv{i}"].stride_t for i in range(1, 6)] == [1, 1, 2, 4, 8]


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="width"):
        create_encoder("c3d", width=0)
