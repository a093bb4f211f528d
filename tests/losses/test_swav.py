"""SwAV's assignments and loss against slow float64 loops, marginals and closed forms (Caron 2020, §3.1)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unreel.core import distributed
from unreel.core.errors import UsageError
from unreel.losses import sinkhorn, swapped_prediction


def scores(rows: int, columns: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(rows, columns, generator=generator, dtype=torch.float64) - 1


def slow(s: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The algorithm of the paper's appendix, one number after another: prototypes first, then samples."""
    rows, columns = s.shape
    q = [[math.exp(float(s[i, k]) / epsilon) for k in range(columns)] for i in range(rows)]
    total = sum(map(sum, q))
    q = [[x / total for x in row] for row in q]
    for _ in range(iterations):
        for k in range(columns):
            share = sum(q[i][k] for i in range(rows))
            for i in range(rows):
                q[i][k] /= share * columns
        for i in range(rows):
            share = sum(q[i])
            q[i] = [x / (share * rows) for x in q[i]]
    return torch.tensor(q, dtype=torch.float64) * rows


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
@pytest.mark.parametrize("iterations", [1, 3])
def test_against_a_slow_loop(epsilon: float, iterations: int) -> None:
    s = scores(7)
    found = sinkhorn(s, epsilon=epsilon, iterations=iterations)
    torch.testing.assert_close(found, slow(s, epsilon, iterations), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sinkhorn(s), slow(s, 0.05, 3), rtol=1e-9, atol=1e-12)  # the defaults


def test_marginals_rows_at_once_columns_in_the_limit() -> None:
    q = sinkhorn(scores(8, 4), iterations=3)
    torch.testing.assert_close(q.sum(1), torch.ones(8, dtype=torch.float64))
    q = sinkhorn(scores(8, 4), epsilon=0.5, iterations=300)
    torch.testing.assert_close(q.sum(0), torch.full((4,), 2.0, dtype=torch.float64), rtol=1e-8, atol=0)


def test_all_samples_on_one_prototype_are_spread() -> None:
    """Why it cannot collapse: equal scores give equal shares, whatever a softmax would say."""
    q = sinkhorn(torch.tensor([[1.0, -1.0]]).repeat(6, 1))
    torch.testing.assert_close(q, torch.full((6, 2), 0.5))


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 100.0])
def test_a_small_epsilon_neither_overflows_nor_starves_a_prototype(epsilon: float) -> None:
    s = torch.cat([scores(6).float(), torch.full((6, 1), -50.0)], 1)
    q = sinkhorn(s, epsilon=epsilon)
    assert q.dtype == torch.float32
    assert torch.isfinite(q).all()
    torch.testing.assert_close(q.sum(1), torch.ones(6))
    torch.testing.assert_close(sinkhorn(s.bfloat16(), epsilon=epsilon).sum(1), torch.ones(6))


def test_scores_have_no_gradient_from_their_assignment() -> None:
    s = scores(4).requires_grad_()
    assert not sinkhorn(s).requires_grad
    loss = swapped_prediction([s, scores(4, seed=1)], {0: s.softmax(1)})
    assert not loss.requires_grad


def test_others_take_part_and_are_not_returned() -> None:
    s, others = scores(4), scores(6, seed=1)
    torch.testing.assert_close(sinkhorn(s, others=others), sinkhorn(torch.cat([s, others]))[:4])
    assert not torch.allclose(sinkhorn(s, others=others), sinkhorn(s))


def slow_loss(views: list[Tensor], assignments: dict[int, Tensor], temperature: float) -> float:
    terms = []
    for i, q in assignments.items():
        for j, other in enumerate(views):
            if j == i:
                continue
            for b in range(len(q)):
                logits = [float(x) / temperature for x in other[b]]
                top = math.log(sum(math.exp(x) for x in logits))
                terms.append(-sum(float(q[b, k]) * (logits[k] - top) for k in range(len(logits))))
    return float(np.mean(terms))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_against_a_slow_loop(temperature: float) -> None:
    views = [scores(3, seed=i) for i in range(4)]
    assignments = {i: sinkhorn(views[i]) for i in (0, 1)}
    found = swapped_prediction(views, assignments, temperature)
    assert float(found) == pytest.approx(slow_loss(views, assignments, temperature), abs=1e-12)
    uniform = [torch.zeros(3, 5)] * 2
    assert float(swapped_prediction(uniform, {0: sinkhorn(scores(3))})) == pytest.approx(math.log(5))


def test_gradient_in_closed_form() -> None:
    """d/ds of −q·log softmax(s/τ) is (p − q)/τ; the assigned view gets none from its own assignment."""
    a, b = scores(3).requires_grad_(), scores(3, seed=1).requires_grad_()
    q = sinkhorn(a.detach())
    swapped_prediction([a, b], {0: q}, 0.1).backward()
    assert a.grad is None or not a.grad.any()
    torch.testing.assert_close(b.grad, ((b / 0.1).softmax(1) - q).detach() / 0.1 / 3)


def test_refusals() -> None:
    s = scores(3)
    for call in (
        lambda: sinkhorn(s[0]),
        lambda: sinkhorn(s, others=scores(3, 4)),
        lambda: sinkhorn(s, epsilon=0),
        lambda: sinkhorn(s, iterations=0),
        lambda: swapped_prediction([s], {0: s}),
        lambda: swapped_prediction([s, s], {}),
        lambda: swapped_prediction([s, s], {2: s}),
        lambda: swapped_prediction([s, scores(4)], {0: s}),
        lambda: swapped_prediction([s, s], {0: s}, 0.0),
    ):
        with pytest.raises(UsageError):
            call()


def assign_on_ranks(queued: int) -> Any:
    rows = 8 // distributed.world_size()
    first = rows * distributed.rank()
    others = scores(queued, seed=1) if queued else None
    return sinkhorn(scores(8)[first : first + rows], others=others).numpy()


@pytest.mark.ddp
@pytest.mark.parametrize("queued", [0, 1, 5])
def test_assignments_over_two_processes_are_those_of_one(ddp: Any, queued: int) -> None:
    """Balanced over the global batch; what all processes hold, such as a queue, counts once."""
    both = np.concatenate(ddp.run(assign_on_ranks, queued))
    np.testing.assert_allclose(both, assign_on_ranks(queued), rtol=1e-12)
