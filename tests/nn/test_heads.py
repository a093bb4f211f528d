"""Heads (docs/methods/cvrl.md, Head and loss; docs/methods/moco.md, Head and queue)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.nn import LinearHead, count_parameters, create_encoder, normalized_mlp, projection_mlp
from unreel.nn.heads import ConcatHead, L2Norm, PairHead, keyed_dropout


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


# --- heads of several clips (docs/methods/vcop.md) --------------------------------------------------------------


def test_keyed_dropout_follows_the_sample_and_keeps_the_mean() -> None:
    ids = torch.tensor([5, 9, 11])
    x = torch.ones(3, 4000, requires_grad=True)
    out = keyed_dropout(x, Key("a"), ids, 0.3)
    kept = out != 0
    assert torch.equal(out, kept * (1 / (1 - 0.3)))
    assert kept.float().mean(1).sub(0.7).abs().max() < 0.04  # 5 standard deviations
    # Whoever holds a sample, in whatever order, drops the same; another key or sample, something else.
    assert torch.equal(keyed_dropout(x[:2], Key("a"), ids[[2, 0]], 0.3), out[[2, 0]])
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(keyed_dropout(x, Key("b"), ids, 0.3), out)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())
    assert keyed_dropout(x, Key("a"), ids, 0.0) is x
    for p in (1.0, -0.1):
        with pytest.raises(UsageError, match="p must be"):
            keyed_dropout(x, Key("a"), ids, p)


def test_pair_head_is_a_loop_over_pairs() -> None:
    torch.manual_seed(0)
    head = PairHead(4, 5, 7, hidden=3).eval()
    f = torch.randn(2, 4, 5)
    pairs = [head.fc(torch.cat([f[:, i], f[:, j]], 1)).relu() for i in range(4) for j in range(i + 1, 4)]
    expected = head.classifier(torch.cat(pairs, 1))
    torch.testing.assert_close(head(f, Key("a"), torch.arange(2)), expected)
    assert len(pairs) == 6
    swapped = head(f[:, [1, 0, 2, 3]], Key("a"), torch.arange(2))
    assert (swapped - expected).abs().max() > 1e-3  # which of two comes first matters


def test_concat_head_with_and_without_a_layer_between() -> None:
    torch.manual_seed(0)
    f, key, ids = torch.randn(2, 3, 5), Key("a"), torch.arange(2)
    plain, deep = ConcatHead(3, 5, 4), ConcatHead(3, 5, 4, hidden=6, dropout=0.5)
    torch.testing.assert_close(plain(f, key, ids), plain.classifier(f.flatten(1)))
    assert deep.fc is not None
    torch.testing.assert_close(deep.eval()(f, key, ids), deep.classifier(deep.fc(f.flatten(1)).relu()))
    assert (deep.train()(f, key, ids) - deep.eval()(f, key, ids)).abs().max() > 1e-3
    assert count_parameters(ConcatHead(3, 512, 2)) == 1536 * 2 + 2


def test_normalized_mlp_is_the_head_of_the_object_aware_code() -> None:
    """docs/methods/moco.md, Training: layers, biases, range of the initial weights, unit rows as its last layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = normalized_mlp(400, 300, 200)
    assert [type(m) for m in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, L2Norm]
    assert head[0].bias is None
    for values, fan_in in ((head[0].weight, 400), (head[3].weight, 300), (head[3].bias, 300)):
        assert values.abs().max().item() <= fan_in**-0.5
        assert values.std().item() == pytest.approx(fan_in**-0.5 / math.sqrt(3), rel=0.1)
    x = torch.randn(5, 400, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(x).norm(dim=1), torch.ones(5))
    assert head.double()(x.double()).dtype == torch.float64
    assert L2Norm()(x.bfloat16()).dtype == torch.float32
    assert not L2Norm()(torch.zeros(2, 3)).any()
    with pytest.raises(UsageError, match="must be ≥ 1"):
        normalized_mlp(4, 0, 2)
