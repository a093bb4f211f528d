from __future__ import annotations

import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.nn import create_encoder
from unreel.nn.heads import projection_mlp
from unreel.train.optim import LARS, build_optimizer, split_parameters


def count(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def test_check_2_kernels_are_decayed_and_nothing_else() -> None:
    with torch.device("meta"):
        module = nn.ModuleDict({"encoder": create_encoder("r3d_50"), "head": projection_mlp(2048)})
    kernels, rest = split_parameters(module)
    assert count(kernels) == 44_464_064
    assert count(rest) == 71_680
    groups = build_optimizer(module, lr=0.1).param_groups
    assert [(count(g["params"]), g["weight_decay"]) for g in groups] == [(44_464_064, 1e-6), (71_680, 0.0)]


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.table = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = self.linear


def test_tokens_tables_norms_and_frozen_parts_are_not_decayed() -> None:
    kernels, rest = split_parameters(Odd())
    assert count(kernels) == 16
    assert count(rest) == 4 + 20 + 8 + 4
    assert [g["weight_decay"] for g in build_optimizer(Odd(), lr=1.0, decay="all").param_groups] == [1e-6, 1e-6]


def test_rate_scales_with_the_global_batch() -> None:
    assert build_optimizer(Odd(), global_batch=1024).defaults["lr"] == pytest.approx(0.32)
    assert build_optimizer(Odd(), lr_per_256=0.1, global_batch=128).defaults["lr"] == pytest.approx(0.05)
    assert build_optimizer(Odd(), lr=0.7, global_batch=128).defaults["lr"] == 0.7


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="global_batch"):
        build_optimizer(Odd())
    with pytest.raises(ValueError, match="did you mean 'adamw'"):
        build_optimizer(Odd(), name="adam", lr=1.0)  # type: ignore[arg-type]
    for wrong in ({"name": "lars"}, {"momentum": 0.0}):
        with pytest.raises(UsageError, match="nesterov"):
            build_optimizer(Odd(), lr=1.0, nesterov=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to train"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), lr=1.0)


def test_weight_decay_is_the_gradient_of_half_the_squared_norm() -> None:
    linear = nn.Linear(3, 2).double()
    before = {n: p.detach().clone() for n, p in linear.named_parameters()}
    optimizer = build_optimizer(linear, lr=0.5, weight_decay=0.1)
    linear(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(linear.weight.detach(), before["weight"] - 0.5 * (1 + 0.1 * before["weight"]))
    torch.testing.assert_close(linear.bias.detach(), before["bias"] - 0.5)


def test_lars_by_hand_over_two_steps() -> None:
    linear = nn.Linear(3, 2).double()
    w, b = linear.weight.detach().clone(), linear.bias.detach().clone()
    optimizer = build_optimizer(linear, name="lars", lr=0.5, weight_decay=0.1, momentum=0.9)
    assert isinstance(optimizer, LARS)
    mw, mb = torch.zeros_like(w), torch.zeros_like(b)
    for scale in (1.0, -2.0):
        optimizer.zero_grad()
        (scale * linear(torch.ones(1, 3, dtype=torch.float64)).sum()).backward()
        optimizer.step()
        g = torch.full_like(w, scale) + 0.1 * w
        mw = 0.9 * mw + 0.001 * w.norm() / g.norm() * g
        mb = 0.9 * mb + scale
        w, b = w - 0.5 * mw, b - 0.5 * mb
    torch.testing.assert_close(linear.weight.detach(), w)
    torch.testing.assert_close(linear.bias.detach(), b)


def test_lars_takes_a_plain_step_where_there_is_no_ratio() -> None:
    linear = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(linear.weight)
    build = build_optimizer(linear, name="lars", lr=0.5, weight_decay=0.0)
    linear(torch.ones(1, 2)).sum().backward()
    build.step()
    assert torch.equal(linear.weight.detach(), torch.full((2, 2), -0.5))


def test_adamw_keeps_the_groups() -> None:
    optimizer = build_optimizer(Odd(), name="adamw", lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.05, 0.0]
    assert optimizer.defaults["betas"] == (0.9, 0.95)
