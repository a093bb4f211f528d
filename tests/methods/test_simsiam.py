"""SimSiam: the loss by hand, where no gradient flows, and the contract of every method."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contracts.method_suite import MethodSuite
from tests.methods.siamese_clips import standard, tiny, views_batch
from unreel.data.batch import Batch
from unreel.methods import Method, create_method
from unreel.nn import create_encoder


def net(**options: Any) -> Any:
    return tiny("simsiam", **{"hidden_dim": 16, "out_dim": 8, "bottleneck": 4, **options})


class TestContract(MethodSuite):
    def make_method(self) -> Method:
        return net()  # type: ignore[no-any-return]

    def make_batch(self, seed: int = 0) -> Batch:
        return views_batch(2, seed=seed)


def test_defaults_are_the_papers() -> None:
    found = standard("simsiam")
    wanted = {"hidden_layers": 2, "hidden_dim": 2048, "out_dim": 2048, "bottleneck": 512, "preset": "mocov2"}
    assert {name: found[name] for name in wanted} == wanted
    with torch.device("meta"):
        method = create_method("simsiam", create_encoder("resnet_50"))
    names = [type(layer).__name__ for layer in method.head]
    assert names == [*["Linear", "BatchNorm1d", "ReLU"] * 2, "Linear", "BatchNorm1d"]
    assert [type(layer).__name__ for layer in method.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert sum(p.numel() for p in method.predictor.parameters()) == 2 * 2048 * 512 + 512 + 2048 + 2 * 512


def test_the_loss_is_minus_the_cosine_both_ways() -> None:
    """A slow loop over samples and directions (eq. 1 and 2), with three views."""
    method, batch = net(rho=3), views_batch(3, dtype=torch.float64)
    method.double()
    z = [method.head(method.encoder(method.encoder.prepare(view.data))) for view in batch.views]
    p = [method.predictor(one) for one in z]
    total, count = 0.0, 0
    for i in range(3):
        for j in range(3):
            if i != j:
                for a, b in zip(p[i], z[j], strict=True):
                    total -= float((a @ b / a.norm() / b.norm()).detach())
                    count += 1
    assert float(method(batch).loss.detach()) == pytest.approx(total / count, abs=1e-12)


def gradients(method: Any, loss: Tensor) -> dict[str, Tensor]:
    method.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in method.named_parameters()}


def test_no_gradient_flows_into_a_target() -> None:
    """The gradient is that with the targets of a frozen copy; where it flows everywhere, it is another."""
    method, batch = net().double(), views_batch(2, dtype=torch.float64)
    frozen = copy.deepcopy(method)

    def projections(of: Any) -> list[Tensor]:
        return [of.head(of.encoder(of.encoder.prepare(view.data))) for view in batch.views]

    def loss(targets: list[Tensor]) -> Tensor:
        z = projections(method)
        cosine = torch.nn.functional.cosine_similarity
        return -sum(cosine(method.predictor(z[i]), targets[1 - i]).mean() for i in (0, 1)) / 2

    found = gradients(method, method(batch).loss)
    stopped = gradients(method, loss([z.detach() for z in projections(frozen)]))
    assert all(torch.allclose(found[n], stopped[n], atol=1e-12) for n in found)
    flowing = gradients(method, loss(projections(method)))
    assert not torch.allclose(found["encoder.conv1.weight"], flowing["encoder.conv1.weight"], atol=1e-6)


def test_spread_tells_a_collapse() -> None:
    method, batch = net(), views_batch(2)
    assert float(method(batch).logs["spread"]) > 0.1
    torch.nn.init.zeros_(method.head[-1].weight)
    torch.nn.init.ones_(method.head[-1].bias)  # every projection is one and the same
    assert float(method(batch).logs["spread"]) == pytest.approx(0, abs=1e-6)
