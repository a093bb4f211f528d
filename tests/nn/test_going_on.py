"""Going on from weights: frozen stages, and whose statistics norms use."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.siamese_clips import OneLayer, batch_of_views, tiny
from unreel.core.errors import UsageError
from unreel.nn import create_encoder
from unreel.nn.going_on import go_on, settle_norms
from unreel.train import build_optimizer, fit


def small() -> Any:
    return create_encoder("resnet_18", width=4, seed=0)


def trained(**settings: Any) -> tuple[set[str], set[str]]:
    """Names of parameters and of running means that a step of training in training mode moves."""
    encoder = small()
    go_on(encoder, **settings)
    encoder.train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder(torch.randn(4, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    means = {name for name in moved if name.endswith("running_mean")}
    return {name for name in moved if name in dict(encoder.named_parameters())}, means


def test_all_is_trained_unless_asked() -> None:
    parameters, means = trained()
    encoder = small()
    assert len(parameters) == len(list(encoder.parameters()))
    assert len(means) == sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for m in encoder.modules())


def test_frozen_stages_keep_parameters_and_statistics_and_the_rest_is_trained() -> None:
    parameters, means = trained()
    encoder = small()
    stages = list(encoder.stage_info)
    last = stages[2]
    rest, rest_means = trained(frozen_to=last)
    assert encoder.stage_info.keys() >= {last}
    inside = {id(p) for name in stages[:3] for p in encoder.stage(name).parameters()}
    assert rest == {name for name, p in encoder.named_parameters() if id(p) not in inside}
    assert rest_means < means
    assert trained(frozen_to=last, norms="kept") == (rest, set())
    assert trained(norms="kept") == (parameters, set())
    with pytest.raises(UsageError, match="unknown stage"):
        go_on(encoder, frozen_to="layer9")


def test_settled_statistics_are_those_of_all_that_was_shown() -> None:
    encoder = OneLayer()
    go_on(encoder, norms="settled")
    twin = copy.deepcopy(encoder)
    pair = nn.ModuleList([encoder.train(), twin])
    shown = [torch.randn(4, 3, 2, 16, 16, generator=torch.Generator().manual_seed(s)) for s in range(3)]
    settle_norms(pair, lambda net: [net(clips) for clips in shown] and None)
    maps = [encoder.conv1(clips) for clips in shown]
    for net in (encoder, twin):
        assert not net.bn1.training
        assert net.bn1.momentum == 0.1
        torch.testing.assert_close(net.bn1.running_mean, torch.stack([m.mean((0, 2, 3, 4)) for m in maps]).mean(0))
        torch.testing.assert_close(net.bn1.running_var, torch.stack([m.var((0, 2, 3, 4)) for m in maps]).mean(0))
    kept = OneLayer()
    go_on(kept, norms="kept")
    settle_norms(kept, lambda net: pytest.fail("nothing is to be settled"))


def test_fit_settles_encoder_and_teacher_before_the_first_step_and_not_after() -> None:
    means = {}
    for steps in (1, 3):
        method = tiny("byol")
        for net in (method.encoder, method.teacher.parts[0]):
            go_on(net, norms="settled")
        batches = [batch_of_views(method, 4, seed=s) for s in range(2)]
        fit(method, batches, build_optimizer(method, lr=0.05), total_steps=steps, device="cpu")
        means[steps] = method.encoder.bn1.running_mean.clone()
        assert torch.equal(means[steps], method.teacher.parts[0].bn1.running_mean)
        assert float(means[steps].abs().max()) > 0
    assert torch.equal(means[1], means[3])
