"""Controls: fresh weights of the same net, and plain statistics of frames."""

import numpy as np
import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.nn import InputSpec, create_encoder
from unreel.nn.encoder import Encoder, StageInfo
from unreel.protocols import ArrayClips, embed
from unreel.tasks import FrameStatistics, random_init


class Foreign(Encoder):
    """An encoder that no registry knows."""

    def __init__(self, loose=False):
        super().__init__()
        self.input_spec, self.num_features = InputSpec(2, 1, 8), 5
        self.stage_info = {"out": StageInfo(5, 1, 1)}
        self.net = nn.Conv3d(3, 5, 1)
        if loose:
            self.token = nn.Parameter(torch.zeros(5))

    def forward_features(self, x, names=None):
        return {"out": self.net(x)}


def test_random_init_is_the_same_net_with_other_weights():
    torch.manual_seed(0)
    trained = create_encoder("r3d_tiny", seed=1)
    state = torch.random.get_rng_state()
    fresh = random_init(trained, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in trained.parameters()]
    assert not torch.equal(next(fresh.parameters()), next(trained.parameters()))
    again, other = random_init(trained, seed=3), random_init(trained, seed=4)
    assert torch.equal(next(fresh.parameters()), next(again.parameters()))
    assert not torch.equal(next(fresh.parameters()), next(other.parameters()))
    assert fresh.input_spec == trained.input_spec


def test_trained_weights_do_not_matter():
    a, b = create_encoder("r3d_tiny", seed=1), create_encoder("r3d_tiny", seed=1)
    with torch.no_grad():
        for tensor in [*b.parameters(), *b.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(1.0)
    for x, y in zip(random_init(a).state_dict().values(), random_init(b).state_dict().values(), strict=True):
        assert torch.equal(x, y)


def test_a_foreign_net_is_reset_module_by_module():
    net = Foreign()
    before = net.net.weight.clone()
    fresh = random_init(net)
    assert torch.equal(net.net.weight, before)
    assert not torch.equal(fresh.net.weight, before)
    with pytest.raises(UsageError, match="token"):
        random_init(Foreign(loose=True))


def test_frame_statistics_are_what_they_say():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 6, 8, 8, 3), dtype=np.uint8)
    net = FrameStatistics(InputSpec(6, 1, 8))
    found = embed(net, ArrayClips(pixels), progress=False).vectors
    x = pixels.astype(np.float64) / 255
    luma = x.mean(-1)
    step = np.abs(np.diff(x, axis=1))
    slow = [
        x.mean((1, 2, 3)),
        x.std((1, 2, 3)),
        x.mean(1).reshape(3, 2, 4, 2, 4, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(3, 12),
        x.mean((2, 3)).std(1),
        step.mean((1, 2, 3)),
        step.std((1, 2, 3)),
        step.mean((1, 4)).reshape(3, 2, 4, 2, 4).mean((2, 4)).reshape(3, 4),
        np.abs(luma[:, 2:] - luma[:, :-2]).mean((1, 2, 3))[:, None],
        np.abs(luma[:, 4:] - luma[:, :-4]).mean((1, 2, 3))[:, None],
        np.abs(np.diff(luma, axis=3)).mean((1, 2, 3))[:, None],
        np.abs(np.diff(luma, axis=2)).mean((1, 2, 3))[:, None],
        np.stack([np.histogram(v, 8, (0, 1))[0] / v.size for v in luma]),
        np.stack([np.cov(v.reshape(-1, 3).T, bias=True)[[0, 0, 1], [1, 2, 2]] for v in x]),
    ]
    np.testing.assert_allclose(found, np.concatenate(slow, 1), atol=1e-4)
    assert found.shape == (3, 46)


def test_frame_statistics_of_one_grey_frame():
    net = FrameStatistics(InputSpec(1, 1, 8))
    found = embed(net, ArrayClips(np.full((1, 1, 8, 8, 1), 128, np.uint8)), progress=False).vectors[0]
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:3], 128 / 255, atol=1e-6)
    np.testing.assert_allclose(found[18:33], 0, atol=1e-6)
