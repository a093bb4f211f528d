"""Controls: fresh weights of the same net, and plain statistics of frames."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from unreel.core.errors import DataError, UsageError
from unreel.data.sampling import ClipPlan
from unreel.nn import InputSpec, create_encoder
from unreel.nn.encoder import Encoder, StageInfo
from unreel.protocols import ArrayClips, Compute, FeatureStore, embed
from unreel.tasks import FrameStatistics, LabelTask, evaluate, first_weights, random_init
from unreel.tasks.baselines import batch_norms, settle, training_rows


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


def test_a_net_that_cannot_be_drawn_again_is_scored_without_those_controls(tiny_world):
    found = evaluate(Foreign(loose=True), tiny_world, label="motion", protocol="knn")
    assert found.score().references == {}
    (note,) = [n for n in found.notes if n.startswith("random-init and first-weights: no control with fresh weights")]
    assert "1 parameters of Foreign cannot be drawn again, such as token" in note


class Normed(Foreign):
    """One batch norm, on the pixels themselves: what its statistics must be is known."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm3d(3)

    def prepare(self, clips):
        return clips.movedim(-1, 1).double().float()

    def forward_features(self, x, names=None):
        return {"out": self.net(self.norm(x))}


def normed_task(order=None, test_level=0):
    """Twelve clips to train on and twelve to test on; ``order`` permutes them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (24, 2, 8, 8, 3), dtype=np.uint8)
    pixels[12:] += test_level
    splits = np.array(["train"] * 12 + ["test"] * 12)
    ids, labels = np.array([f"v{i:02d}" for i in range(24)]), np.arange(24) % 2
    rows = np.arange(24) if order is None else order
    clips = ArrayClips(pixels[rows], labels=labels[rows], ids=ids[rows])
    return LabelTask(clips, splits=splits[rows]), pixels[:12].astype(np.float64)


PLAN = ClipPlan(num_frames=2, stride=1, num_clips=1, num_crops=1, size_px=8, short_side_px=8)


def test_first_weights_are_random_init_with_the_statistics_of_the_training_part():
    trained = Normed()
    trained.norm.running_mean.fill_(7.0)
    task, pixels = normed_task()
    fresh, settled = random_init(trained, seed=3), first_weights(trained, task, PLAN, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), settled.parameters(), strict=True))
    # Twelve clips are one batch of eight and a rest that is left out: eight chosen by the seed.
    mean = settled.norm.running_mean.numpy()
    assert np.abs(mean - pixels.mean((0, 1, 2, 3))).max() < 2
    assert not settled.training
    assert float(trained.norm.running_mean[0]) == 7.0
    assert int(settled.norm.num_batches_tracked) == 0
    # Neither test clips nor the order of the data nor what was trained have a say.
    for other in (normed_task(test_level=100)[0], normed_task(np.random.default_rng(1).permutation(24))[0]):
        again = first_weights(Normed(), other, PLAN, seed=3)
        assert torch.equal(again.norm.running_mean, settled.norm.running_mean)
        assert torch.equal(again.norm.running_var, settled.norm.running_var)


def test_settling_is_the_mean_over_batches_and_leaves_the_modes():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)).eval()
    batches = [torch.randn(5, 2) + 3, torch.randn(5, 2) - 1, torch.randn(5, 2)]
    norm = net[0]
    norm.running_mean.fill_(9.0)
    settle(net, batches, net)
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var(0) for b in batches]).mean(0))
    assert not any(module.training for module in net.modules())
    assert norm.momentum == 0.1
    with pytest.raises(DataError, match="a batch of at least two clips"):
        settle(net, [], net)


def test_the_store_keeps_settled_statistics(tmp_path):
    net, task = create_encoder("r3d_tiny", seed=1), normed_task()[0]
    plan = replace(PLAN, size_px=32, short_side_px=32)
    made = first_weights(net, task, plan, seed=0)
    compute = Compute(store=tmp_path)
    for _ in range(2):  # computed, then read
        kept = first_weights(net, task, plan, seed=0, compute=compute)
        for a, b in zip(batch_norms(made), batch_norms(kept), strict=True):
            assert torch.equal(a.running_mean, b.running_mean)
            assert torch.equal(a.running_var, b.running_var)
    assert len(FeatureStore(tmp_path).files()) == 1


def test_training_rows_are_those_of_the_training_part():
    task = normed_task()[0]
    assert training_rows(task, task.clips(PLAN)) == list(range(12))


def test_both_untrained_controls_stand_beside_and_move_no_other_row():
    task, options = normed_task()[0], {"protocol": "knn", "num_resamples": 50, "progress": False}
    found = evaluate(create_encoder("r3d_tiny", seed=1), task, **options)
    before = evaluate(create_encoder("r3d_tiny", seed=1), task, baselines=("random-init",), **options)
    assert list(found.score().references) == list(found.score().differences) == ["random-init", "first-weights"]
    assert [s for s in found.scores if s.encoder == "random-init"] == [
        s for s in before.scores if s.encoder == "random-init"
    ]
    assert found.score().differences["random-init"] == before.score().differences["random-init"]
    assert found.score(encoder="first-weights").differences == {}
    assert "first-weights" in found.table().splitlines()[0]
    assert "first-weights" in found.verdicts[0]


def test_a_net_without_batch_statistics_says_so_and_is_not_asked_twice():
    found = evaluate(Foreign(), normed_task()[0], protocol="knn", num_resamples=50, progress=False)
    assert {s.encoder for s in found.scores} == {"encoder", "random-init"}
    assert "first-weights: the net keeps no batch statistics that could settle, so it equals random-init" in found.notes


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
