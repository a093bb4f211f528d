"""MoCo's loss (docs/methods/moco.md, Head and queue), slow loops and closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unreel.core import distributed
from unreel.core.errors import UsageError
from unreel.losses import Mixed, mixed_queue_info_nce, queue_info_nce
from unreel.losses.queue import queue_accuracy

WORKED = math.log(1 + math.exp(-5) + math.exp(-10))


def unit(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64), dim=1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_check_C12_worked_value(dtype: torch.dtype) -> None:
    q = torch.tensor([[1.0, 0.0]], dtype=dtype)
    queue = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=dtype)
    loss = queue_info_nce(q, q, queue)
    assert loss.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    assert float(loss) == pytest.approx(WORKED, abs=tolerance)
    assert float(loss) == pytest.approx(0.0067604, abs=1e-6)


def slow(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> float:
    total = 0.0
    for i in range(len(q)):
        own = float(q[i] @ k[i]) / temperature
        others = [float(q[i] @ row) / temperature for row in queue]
        total -= own - math.log(sum(math.exp(x) for x in [own, *others]))
    return total / len(q)


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_against_a_loop(temperature: float) -> None:
    q, k, queue = unit(4, 1), unit(4, 2), unit(7, 3)
    assert float(queue_info_nce(q, k, queue, temperature)) == pytest.approx(slow(q, k, queue, temperature), abs=1e-12)


def test_gradient_in_closed_form_and_none_into_keys() -> None:
    q, k, queue = unit(4, 1).requires_grad_(), unit(4, 2).requires_grad_(), unit(7, 3).requires_grad_()
    queue_info_nce(q, k, queue).backward()
    assert k.grad is None
    assert queue.grad is None
    with torch.no_grad():
        p = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], 1).div(0.2).softmax(1)
        expected = (p[:, :1] * k + p[:, 1:] @ queue - k) / 0.2 / 4
    torch.testing.assert_close(q.grad, expected)


def test_half_precision_is_computed_in_float32() -> None:
    q, k, queue = unit(4, 1), unit(4, 2), unit(7, 3)
    found = queue_info_nce(q.bfloat16(), k.bfloat16(), queue.float())
    assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        same = queue_info_nce(q.float(), k.float(), queue.float())
    assert float(same) == pytest.approx(float(queue_info_nce(q, k, queue)), abs=1e-5)


def slow_mixed(q: Tensor, k: Tensor, queue: Tensor, weight: list[float], partner: list[int], official: bool) -> float:
    columns = [*k, *queue]

    def entropy(i: int, target: int) -> float:
        logits = [float(q[i] @ c) / 0.2 for c in columns]
        return math.log(sum(math.exp(x) for x in logits)) - logits[target]

    own = [entropy(i, i) for i in range(len(q))]
    other = [entropy(i, partner[i]) for i in range(len(q))]
    if official:
        mean_own, mean_other = sum(own) / len(q), sum(other) / len(q)
        return sum(w * mean_own + (1 - w) * mean_other for w in weight) / len(q)
    return sum(w * a + (1 - w) * b for w, a, b in zip(weight, own, other, strict=True)) / len(q)


def test_mixed_against_a_loop_in_both_weightings() -> None:
    q, k, queue = unit(4, 1), unit(4, 2), unit(6, 3)
    weight, partner = [1.0, 0.5, 0.75, 0.9], [2, 0, 3, 1]
    mixed = Mixed(torch.tensor(weight, dtype=torch.float64), torch.tensor(partner))
    paper = mixed_queue_info_nce(q, k, queue, mixed)
    official = mixed_queue_info_nce(q, k, queue, mixed, weighting="official")
    assert float(paper) == pytest.approx(slow_mixed(q, k, queue, weight, partner, False), abs=1e-12)
    assert float(official) == pytest.approx(slow_mixed(q, k, queue, weight, partner, True), abs=1e-12)
    assert abs(float(paper) - float(official)) > 1e-3
    # One weight for all (CutMix): the released code's mistake makes no difference.
    same = Mixed(torch.full((4,), 0.7, dtype=torch.float64), mixed.partner)
    torch.testing.assert_close(
        mixed_queue_info_nce(q, k, queue, same), mixed_queue_info_nce(q, k, queue, same, weighting="official")
    )


def test_unmixed_rows_see_the_other_keys_as_negatives() -> None:
    q, k, queue = unit(3, 1), unit(3, 2), unit(6, 3)
    mixed = Mixed(torch.ones(3, dtype=torch.float64), torch.tensor([1, 2, 0]))
    by_row = [queue_info_nce(q[i : i + 1], k[i : i + 1], torch.cat([queue, k[torch.arange(3) != i]])) for i in range(3)]
    torch.testing.assert_close(mixed_queue_info_nce(q, k, queue, mixed), torch.stack(by_row).mean())


def test_accuracy_is_the_share_nearer_to_its_key_than_to_all_of_the_queue() -> None:
    q = torch.eye(2)
    assert float(queue_accuracy(q, q, -q)) == 1
    assert float(queue_accuracy(q, q, torch.tensor([[1.0, 0.0]]))) == 0.5
    assert float(queue_accuracy(q, -q, -q)) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((unit(2), unit(3), unit(4)), "queries and keys"),
        ((unit(2), unit(2), unit(4, dim=3)), "queries and keys"),
        ((unit(2), unit(2), unit(4), 0.0), "temperature"),
    ],
)
def test_refuses(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        queue_info_nce(*arguments)


def test_unknown_weighting_is_refused() -> None:
    mixed = Mixed(torch.ones(2), torch.arange(2))
    with pytest.raises(UsageError, match="did you mean 'official'"):
        mixed_queue_info_nce(unit(2), unit(2), unit(4), mixed, weighting="oficial")  # type: ignore[arg-type]


def mixed_on_ranks(gather: bool) -> float:
    rows = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    mixed = Mixed(torch.linspace(0.5, 1, 8, dtype=torch.float64)[rows], torch.tensor([1, 2, 3, 0]))
    loss = mixed_queue_info_nce(unit(8, 1)[rows], unit(8, 2)[rows], unit(6, 3), mixed, gather=gather)
    return float(distributed.all_reduce_mean(loss))


@pytest.mark.ddp
def test_mixed_on_two_processes_is_on_one(ddp: Any) -> None:
    partner = torch.tensor([1, 2, 3, 0, 5, 6, 7, 4])
    mixed = Mixed(torch.linspace(0.5, 1, 8, dtype=torch.float64), partner)
    truth = float(mixed_queue_info_nce(unit(8, 1), unit(8, 2), unit(6, 3), mixed))
    assert ddp.run(mixed_on_ranks, True) == [pytest.approx(truth, abs=1e-12)] * 2
    assert abs(ddp.run(mixed_on_ranks, False)[0] - truth) > 1e-2
