from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unreel.core import distributed
from unreel.losses import contrast_statistics, contrastive, nt_xent


def grid(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    i = torch.arange(rows, dtype=torch.float64)[:, None]
    return i, torch.arange(columns, dtype=torch.float64)[None]


def check_9() -> tuple[Tensor, Tensor]:
    i, j = grid(3, 4)
    return torch.sin(4 * i + j + 1), torch.cos(4 * i + j + 1)


def check_10() -> tuple[Tensor, Tensor]:
    i, j = grid(4, 3)
    a = torch.sin(3 * i + j + 1)
    return a, a + 0.3 * torch.cos(2 * (3 * i + j))


def by_loops(a: Tensor, b: Tensor, tau: float, *, same: bool = True) -> tuple[list[float], list[float]]:
    """The formula of docs/methods/cvrl.md, Head and loss, anchor by anchor."""

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(x @ y / (x.norm() * y.norm()))

    def anchor(x: Tensor, y: Tensor, i: int) -> float:
        total = sum(math.exp(cosine(x[i], y[k]) / tau) for k in range(len(x)))
        if same:
            total += sum(math.exp(cosine(x[i], x[k]) / tau) for k in range(len(x)) if k != i)
        return -math.log(math.exp(cosine(x[i], y[i]) / tau) / total)

    return [anchor(a, b, i) for i in range(len(a))], [anchor(b, a, i) for i in range(len(a))]


@pytest.mark.parametrize(("n", "expected"), [(2, 1.098612), (4, 1.945910), (512, 6.930495), (1024, 7.624131)])
def test_check_7_equal_embeddings_give_log_of_candidates(n: int, expected: float) -> None:
    z = torch.ones(n, 8)
    assert float(nt_xent(z, z)) == pytest.approx(expected, abs=2e-6)
    assert float(nt_xent(z, z, reduction="sum_of_views")) == pytest.approx(2 * expected, abs=4e-6)


@pytest.mark.parametrize(
    ("n", "tau", "expected"),
    [(2, 0.1, 9.079574e-5), (2, 0.5, 0.2395448), (4, 0.1, 2.723625e-4), (4, 0.5, 0.5944377), (4, 1.0, 1.1654222)],
)
def test_check_8_identity_embeddings(n: int, tau: float, expected: float) -> None:
    z = torch.eye(n, dtype=torch.float64)
    assert float(nt_xent(z, z, temperature=tau)) == pytest.approx(expected, rel=1e-6)


def test_check_9_sine_and_cosine() -> None:
    a, b = check_9()
    assert float(nt_xent(a, b)) == pytest.approx(8.7218592, abs=5e-8)
    assert float(nt_xent(a, b, reduction="sum_of_views")) == pytest.approx(17.4437184, abs=1e-7)
    assert float(nt_xent(a, b, temperature=0.5)) == pytest.approx(2.0746467, abs=5e-8)
    assert float(nt_xent(a, b, normalize=False)) == pytest.approx(17.3265185, abs=5e-8)
    assert float(nt_xent(a, b, same_view_negatives=False)) == pytest.approx(8.7216182, abs=5e-8)
    assert float(nt_xent(a, b, temperature=0.5, same_view_negatives=False)) == pytest.approx(1.9482866, abs=5e-8)
    of_a, of_b = by_loops(a, b, 0.1)
    assert of_a == pytest.approx([5.064683, 9.331913, 11.772529], abs=1e-6)
    assert sum(of_a) / 3 == pytest.approx(8.7230417, abs=5e-8)
    assert sum(of_b) / 3 == pytest.approx(8.7206767, abs=5e-8)
    assert float(nt_xent(a, b)) == pytest.approx(sum(of_a + of_b) / 6, rel=1e-12)


def test_check_10_correlated_views() -> None:
    a, b = check_10()
    assert float(nt_xent(a, b)) == pytest.approx(1.0718356, abs=5e-8)
    assert float(nt_xent(a, b, reduction="sum_of_views")) == pytest.approx(2.1436712, abs=1e-7)
    assert float(nt_xent(a, b, same_view_negatives=False)) == pytest.approx(0.6114169, abs=5e-8)
    statistics = contrast_statistics(a, b)
    assert float(statistics.accuracy) == 0.5
    assert float(statistics.entropy) == pytest.approx(0.6255814, abs=5e-8)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("tau", [0.07, 0.1, 1.0])
def test_equals_the_formula_by_loops(same: bool, tau: float) -> None:
    generator = torch.Generator().manual_seed(7)
    a, b = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    of_a, of_b = by_loops(a, b, tau, same=same)
    found = nt_xent(a, b, temperature=tau, same_view_negatives=same)
    assert float(found) == pytest.approx(sum(of_a + of_b) / 12, rel=1e-12)


def test_check_12_invariances() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(5, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    loss = float(nt_xent(a, b))
    assert float(nt_xent(3.7 * a, 3.7 * b)) == pytest.approx(loss, rel=1e-12)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert float(nt_xent(a[order], b[order])) == pytest.approx(loss, rel=1e-12)
    assert float(nt_xent(b, a)) == pytest.approx(loss, rel=1e-12)
    assert float(nt_xent(a[order], b)) != pytest.approx(loss, rel=1e-3)


def test_gradient_is_that_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(4, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(nt_xent, (a, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_check_11_finite_at_low_temperature_and_half_inputs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2, 8, 16, generator=generator) * 300  # the squared norm overflows float16
    a, b = values.to(dtype).requires_grad_().unbind()
    loss = nt_xent(a, b, temperature=0.01)
    (gradient,) = torch.autograd.grad(loss, a)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_autocast_does_not_lower_the_precision_of_the_loss() -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = torch.randn(2, 8, 16, generator=generator).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(a, b), contrast_statistics(a, b)
    assert float(inside[0]) == float(nt_xent(a, b))
    assert float(inside[0]) == pytest.approx(float(nt_xent(a.double(), b.double())), rel=1e-6)
    assert float(inside[1].entropy) == float(contrast_statistics(a, b).entropy)


def test_zero_rows_are_finite() -> None:
    a = torch.zeros(3, 4, requires_grad=True)
    loss = nt_xent(a, torch.ones(3, 4))
    loss.backward()
    assert torch.isfinite(loss)
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_wrong_calls_say_why() -> None:
    z = torch.ones(4, 3)
    with pytest.raises(ValueError, match="equal shapes"):
        nt_xent(z, torch.ones(4, 2))
    with pytest.raises(ValueError, match="at least 2 samples"):
        nt_xent(z[:1], z[:1])
    with pytest.raises(ValueError, match="temperature"):
        nt_xent(z, z, temperature=0.0)
    with pytest.raises(ValueError, match="reduction"):
        nt_xent(z, z, reduction="sum")  # type: ignore[arg-type]


def on_ranks(mutation: str) -> dict[str, Any]:
    """Loss of this rank's half and the gradients that DDP would give: the average over ranks."""
    rank, world = distributed.rank(), distributed.world_size()
    own = slice(rank * 3, rank * 3 + 3)
    results: dict[str, Any] = {}
    saved = contrastive.all_gather_with_grad, contrastive.rank
    if mutation == "detached":
        contrastive.all_gather_with_grad = lambda x: saved[0](x).detach()
    if mutation == "offset":
        contrastive.rank = lambda: 0
    try:
        for reduction in ("mean", "sum_of_views"):
            a, b = (z[own].requires_grad_() for z in global_batch())
            loss = nt_xent(a, b, reduction=reduction)  # type: ignore[arg-type]
            loss.backward()
            assert a.grad is not None
            assert b.grad is not None
            # a parameter that scales every row of every rank would see Σ over ranks / W of these
            gradients = [g.numpy() for g in (a.grad / world, b.grad / world)]
            results[reduction] = (float(distributed.all_reduce_mean(loss.detach())), gradients)
    finally:
        contrastive.all_gather_with_grad, contrastive.rank = saved
    a, b = (z[own] for z in global_batch())
    results["statistics"] = [float(s) for s in contrast_statistics(a, b)]
    results["local"] = float(nt_xent(a, b, gather=False))
    return results


def global_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    a = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return a, a + 0.5 * torch.randn(6, 4, generator=generator, dtype=torch.float64)


@pytest.mark.ddp
def test_check_11_two_processes_give_the_loss_and_gradients_of_one(ddp: Any) -> None:
    ranks = ddp.run(on_ranks, "none")
    detached, offset = ddp.run(on_ranks, "detached"), ddp.run(on_ranks, "offset")
    for reduction in ("mean", "sum_of_views"):
        a, b = (z.requires_grad_() for z in global_batch())
        loss = nt_xent(a, b, reduction=reduction)  # type: ignore[arg-type]
        loss.backward()
        assert a.grad is not None
        assert b.grad is not None

        def worst(found: list[dict[str, Any]], reduction: str = reduction, truth: Any = (a.grad, b.grad)) -> float:
            pairs = [(found[r][reduction][1][v], truth[v][3 * r : 3 * r + 3]) for r in (0, 1) for v in (0, 1)]
            return max(float((torch.as_tensor(x) - y).abs().max()) for x, y in pairs)

        for result in ranks:
            assert result[reduction][0] == pytest.approx(float(loss.detach()), abs=1e-12)
        assert worst(ranks) < 1e-12
        assert worst(detached) > 1e-3  # the test can see a gather that is not differentiable …
        assert abs(offset[1][reduction][0] - float(loss.detach())) > 1e-3  # … and labels without their offset
    expected = [float(s) for s in contrast_statistics(*global_batch())]
    for rank, result in enumerate(ranks):
        assert result["statistics"] == pytest.approx(expected, abs=1e-12)
        half = slice(3 * rank, 3 * rank + 3)
        a, b = global_batch()
        assert result["local"] == pytest.approx(float(nt_xent(a[half], b[half])), abs=1e-12)
