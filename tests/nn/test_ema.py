"""The moving average (docs/methods/moco.md, Training)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.nn import Teacher, ema_update
from unreel.nn.ema import scheduled_momentum


def test_check_C12_momentum() -> None:
    target, online = nn.Linear(2, 2), nn.Linear(2, 2)
    nn.init.ones_(target.weight)
    nn.init.zeros_(online.weight)
    ema_update(target, online, 0.99)
    assert torch.equal(target.weight, torch.full((2, 2), 0.99))
    assert torch.equal(online.weight, torch.zeros(2, 2))


def test_parameters_move_and_buffers_stay() -> None:
    target, online = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    online(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    before = {n: p.detach().clone() for n, p in target.named_parameters()}
    for _ in range(2):
        ema_update(target, online, 0.25)
    for name, parameter in target.named_parameters():
        torch.testing.assert_close(parameter, before[name] / 16 + dict(online.named_parameters())[name] * 15 / 16)
    assert torch.equal(target[1].running_mean, torch.zeros(3))
    assert int(target[1].num_batches_tracked) == 0
    for momentum, wanted in ((1.0, target[0].weight.detach().clone()), (0.0, online[0].weight)):
        ema_update(target, online, momentum)
        assert torch.equal(target[0].weight, wanted)


def test_a_teacher_starts_as_a_copy_and_gets_no_gradient() -> None:
    body, head = nn.Linear(2, 3), nn.Linear(3, 2)
    teacher = Teacher(body, head)
    x = torch.randn(4, 2, requires_grad=True)
    assert torch.equal(teacher(x), head(body(x)))
    assert not teacher(x).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in (*body.parameters(), *head.parameters()))
    assert set(teacher.state_dict()) == {f"parts.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}
    nn.init.zeros_(head.weight)
    assert teacher.parts[1].weight.any()
    teacher.follow(body, head, momentum=0.0)
    assert not teacher.parts[1].weight.any()


def test_schedules_of_the_momentum() -> None:
    assert [scheduled_momentum(0.996, f) for f in (0.0, 0.5, 1.0)] == [0.996] * 3
    found = [scheduled_momentum(0.996, f, "cosine") for f in (0.0, 1 / 3, 0.5, 1.0, 1.5)]
    assert found == pytest.approx([0.996, 1 - 0.004 * (math.cos(math.pi / 3) + 1) / 2, 0.998, 1.0, 1.0], abs=1e-12)


def test_refuses() -> None:
    with pytest.raises(UsageError, match=r"momentum must be ≤ 1, got 1\.1"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2), 1.1)
    with pytest.raises(UsageError, match="of one structure"):
        ema_update(nn.Linear(2, 2), nn.Linear(2, 2, bias=False), 0.9)
    with pytest.raises(UsageError, match="in shape"):
        ema_update(nn.Linear(2, 2), nn.Linear(3, 2), 0.9)
    with pytest.raises(UsageError, match="schedule must be one of constant, cosine"):
        scheduled_momentum(0.9, 0.0, "cosin")  # type: ignore[arg-type]
