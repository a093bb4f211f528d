"""Heads against cvrl.md §2 and check 2 of its §9."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.nn import LinearHead, count_parameters, create_encoder, projection_mlp


@pytest.mark.parametrize(("layers", "count"), [(0, 262_272), (1, 4_462_720), (2, 8_663_168), (3, 12_863_616)])
def test_check_2_head_counts(layers: int, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(projection_mlp(2048, hidden_layers=layers)) == count


def test_check_2_encoder_with_head_and_what_is_decayed() -> None:
    with torch.device("meta"):
        parts = nn.ModuleList([create_encoder("r3d_50"), projection_mlp(2048)])
    assert count_parameters(parts) == 44_535_744
    decayed = sum(p.numel() for p in parts.parameters() if p.ndim > 1)
    assert decayed == 44_464_064
    assert count_parameters(parts) - decayed == 71_680


@pytest.mark.parametrize(("classes", "count"), [(400, 819_600), (600, 1_229_400)])
def test_check_2_linear_probe(classes: int, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(LinearHead(2048, classes)) == count


def test_the_order_of_layers_and_their_settings() -> None:
    head = projection_mlp(6, hidden_layers=2, hidden_dim=8, out_dim=4)
    kinds = [type(m) for m in head]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert (head[1].momentum, head[1].eps) == (0.003, 1e-5)
    assert head(torch.randn(5, 6)).shape == (5, 4)
    plain = projection_mlp(6, hidden_layers=1, hidden_dim=8, out_dim=4, batch_norm=False, bias=False)
    assert [type(m) for m in plain] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(m.bias is None for m in plain if isinstance(m, nn.Linear))


def test_glorot_uniform_weights_and_zero_bias() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [m for m in projection_mlp(300, hidden_dim=200, out_dim=100) if isinstance(m, nn.Linear)]
        layers.append(LinearHead(300, 50).linear)
    for layer in layers:
        bound = math.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max().item() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert not layer.bias.any()


def test_linear_head_with_dropout_and_normal_init() -> None:
    head = LinearHead(2000, 100, dropout=0.5, init_std=0.01)
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    x = torch.ones(2, 2000)
    assert torch.equal(head.eval()(x)[0], head(x)[1])
    assert not torch.equal(head.train()(x)[0], head(x)[0])


@pytest.mark.parametrize("bad", [{"hidden_layers": -1}, {"out_dim": 0}, {"hidden_dim": 0}])
def test_refuses_empty_heads(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        projection_mlp(8, **bad)
    with pytest.raises(UsageError):
        LinearHead(8, 0)
