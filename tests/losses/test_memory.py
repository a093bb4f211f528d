"""PIRL's loss against slow loops, and where one negative takes all (Misra 2020, eq. 4 and 5, recalled)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.errors import UsageError
from unreel.losses import memory_nce


def unit(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


def slow(q: Tensor, own: Tensor, negatives: Tensor, temperature: float, kind: str, exclude: Tensor | None) -> float:
    total = 0.0
    for i in range(len(q)):
        others = [
            float(q[i] @ row) / temperature
            for j, row in enumerate(negatives)
            if exclude is None or not bool(exclude[i, j])
        ]
        logits = [float(q[i] @ own[i]) / temperature, *others]
        z = sum(math.exp(x) for x in logits)
        p = [math.exp(x) / z for x in logits]
        total -= math.log(p[0])
        if kind == "nce":
            total -= sum(math.log(1 - x) for x in p[1:])
    return total / len(q)


@pytest.mark.parametrize("kind", ["nce", "info_nce"])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_against_a_loop(kind: str, temperature: float) -> None:
    q, own, negatives = unit(4, 1), unit(4, 2), unit(6, 3)
    exclude = torch.zeros(4, 6, dtype=torch.bool)
    exclude[1, 2] = exclude[3, 0] = True
    for mask in (None, exclude):
        found = memory_nce(q, own, negatives, temperature, exclude=mask, kind=kind)  # type: ignore[arg-type]
        assert float(found) == pytest.approx(slow(q, own, negatives, temperature, kind, mask), rel=1e-9)
    assert float(memory_nce(q, own, negatives)) == pytest.approx(slow(q, own, negatives, 0.07, "nce", None), rel=1e-9)


@pytest.mark.parametrize("kind", ["nce", "info_nce"])
def test_gradient_of_queries_only(kind: str) -> None:
    q = unit(3, 1).requires_grad_()
    own, negatives = unit(3, 2).requires_grad_(), unit(5, 3).requires_grad_()
    memory_nce(q, own, negatives, 0.5, kind=kind).backward()  # type: ignore[arg-type]
    assert own.grad is None
    assert negatives.grad is None
    fixed = own.detach(), negatives.detach()
    torch.autograd.gradcheck(lambda x: memory_nce(x, *fixed, 0.5, kind=kind), (unit(3, 4).requires_grad_(),))  # type: ignore[arg-type]


def test_a_negative_that_takes_all_gives_a_finite_loss_and_gradient() -> None:
    """1 − p of the largest entry cancels in float32; it is the share of all others."""
    q = torch.tensor([[1.0, 0.0]], requires_grad=True)
    own, negatives = torch.tensor([[-1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = memory_nce(q, own, negatives, 0.05)
    wanted = memory_nce(q.double(), own.double(), negatives.double(), 0.05)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert loss.item() == pytest.approx(40 + 20, rel=1e-3)  # −log p₀ = 2/τ, −log(1 − p₁) = 1/τ
    loss.backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def test_refusals() -> None:
    q = unit(3)
    for arguments in ((q, unit(2), q), (q, q, unit(3, dim=4)), (q[0], q[0], q), (q, q, q, 0.0)):
        with pytest.raises(UsageError):
            memory_nce(*arguments)
    with pytest.raises(UsageError, match="exclude"):
        memory_nce(q, q, q, exclude=torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(UsageError, match="did you mean 'nce'"):
        memory_nce(q, q, q, kind="nec")  # type: ignore[arg-type]
