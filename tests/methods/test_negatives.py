"""Negatives of other groups only: losses against slow loops, every contrastive method, two processes against one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.methods.siamese_clips import batch_of_views, check_same_state, part_of, tiny, views_batch
from unreel.core import distributed
from unreel.core.settings import Layer
from unreel.losses import Mixed, contrast_statistics, mixed_queue_info_nce, nt_xent, queue_info_nce
from unreel.losses.queue import queue_accuracy
from unreel.methods import StepsDone
from unreel.methods.pace import Pace
from unreel.methods.registry import METHODS
from unreel.recipes.schema import resolve
from unreel.train import build_optimizer, fit

# One group twice, one three times, one once; an id as large as those of a manifest.
GROUPS = torch.tensor([7, 2**62 + 1, 7, 5, 2**62 + 1, 2**62 + 1])
CONTRASTIVE: dict[str, dict[str, Any]] = {
    "cvrl": {"hidden_dim": 16, "out_dim": 8, "hidden_layers": 1},
    "simclr": {},
    "moco": {},
    "pirl": {"loss": "info_nce"},
    "pace": {"rates": (1, 2), "num_clips": 2, "contrast_weight": 1.0, "out_dim": 8},
}


def unit(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, 5, generator=generator, dtype=torch.float64), dim=1)


def cross_entropy(own: float, others: list[float]) -> float:
    return -math.log(math.exp(own) / (math.exp(own) + sum(math.exp(x) for x in others)))


@pytest.mark.parametrize("same", [True, False])
def test_nt_xent_by_loops(same: bool) -> None:
    a, b, groups = unit(6, 1), unit(6, 2), GROUPS.tolist()
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(6):
            others = [float(x[i] @ y[j]) / 0.2 for j in range(6) if groups[j] != groups[i]]
            others += [float(x[i] @ x[j]) / 0.2 for j in range(6) if groups[j] != groups[i]] if same else []
            total += cross_entropy(float(x[i] @ y[i]) / 0.2, others) / 12
    found = nt_xent(a, b, 0.2, same_view_negatives=same, groups=GROUPS)
    assert float(found) == pytest.approx(total, abs=1e-12)


def test_groups_of_their_own_change_nothing_and_one_group_leaves_nothing_to_learn() -> None:
    a, b = unit(6, 1).requires_grad_(), unit(6, 2)
    assert torch.equal(nt_xent(a, b, groups=torch.arange(6)), nt_xent(a, b))
    assert contrast_statistics(a, b, groups=torch.arange(6)) == contrast_statistics(a, b)
    loss = nt_xent(a, b, groups=torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert a.grad is not None
    assert not a.grad.any()


def test_accuracy_is_among_the_own_and_other_groups() -> None:
    a = torch.eye(4)
    b = a[[1, 0, 2, 3]]  # the first two match each other's pair
    assert float(contrast_statistics(a, b).accuracy) == 0.5
    assert float(contrast_statistics(a, b, groups=torch.tensor([3, 3, 1, 2])).accuracy) == 1


def test_queue_by_loops() -> None:
    q, k, queue = unit(6, 1), unit(6, 2), unit(4, 3)
    exclude = GROUPS[:, None] == torch.tensor([5, 7, -1, 7])
    total, right = 0.0, 0
    for i in range(6):
        others = [float(q[i] @ queue[j]) / 0.2 for j in range(4) if not exclude[i, j]]
        own = float(q[i] @ k[i]) / 0.2
        total, right = total + cross_entropy(own, others) / 6, right + (own > max(others))
    assert float(queue_info_nce(q, k, queue, exclude=exclude)) == pytest.approx(total, abs=1e-12)
    assert float(queue_accuracy(q, k, queue, exclude)) == pytest.approx(right / 6)
    assert float(queue_accuracy(k, k, k[:4], torch.eye(6, 4, dtype=torch.bool))) == 1


def test_mixed_queue_by_loops_keeps_the_own_and_the_partners_key() -> None:
    q, k, queue = unit(6, 1), unit(6, 2), unit(4, 3)
    weight, partner = torch.linspace(0.5, 1, 6, dtype=torch.float64), [2, 0, 1, 4, 5, 3]
    exclude = GROUPS[:, None] == torch.cat([GROUPS, torch.tensor([5, 7, -1, 7])])
    total = 0.0
    for i in range(6):
        logits = [float(q[i] @ c) / 0.2 for c in (*k, *queue)]
        for target, share in ((i, float(weight[i])), (partner[i], 1 - float(weight[i]))):
            kept = [x for j, x in enumerate(logits) if j in (i, partner[i]) or not exclude[i, j]]
            total += share * (math.log(sum(map(math.exp, kept))) - logits[target]) / 6
    found = mixed_queue_info_nce(q, k, queue, Mixed(weight, torch.tensor(partner)), exclude=exclude)
    assert float(found) == pytest.approx(total, abs=1e-12)


def made(name: str, negatives: str) -> Any:
    return tiny(name, negatives=negatives, **CONTRASTIVE[name])


def grouped(method: Any, seed: int = 0, groups: Tensor = GROUPS) -> Any:
    make = partial(views_batch, 2) if isinstance(method, Pace) else partial(batch_of_views, method)
    batch = make(len(groups), seed=seed, dtype=next(method.parameters()).dtype)
    targets = {"pace": torch.zeros(len(groups), 2, dtype=torch.int64)}
    return replace(batch, group=groups, targets=targets)


def course(name: str, negatives: str) -> dict[str, Any]:
    """State after three steps on this rank's share, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        method = made(name, negatives).double()
        count = 6 // distributed.world_size()
        rows = slice(count * distributed.rank(), count * (distributed.rank() + 1))
        batches = []
        for seed in range(3):
            batch = grouped(method, seed)
            batches.append(replace(part_of(batch, rows), targets={"pace": batch.targets["pace"][rows]}))
        fit(method, batches, build_optimizer(method, lr=0.05), total_steps=3, device="cpu")
        return {"state": {n: v.numpy() for n, v in method.state_dict().items()}}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_every_contrastive_method_learns_from_other_groups_only(name: str) -> None:
    """Where all is of one group nothing is pushed away."""
    one = torch.full((6,), 3)
    losses = {}
    for negatives in ("all", "other_groups"):
        method = made(name, negatives)
        method.on_step_begin(StepsDone(0, 3))
        for seed in range(8):  # the queue and the memory are full of this group
            method(grouped(method, seed, one))
        method.on_step_end(StepsDone(1, 3), True)
        out = method(grouped(method, 9, one))
        losses[negatives] = float(out.loss.detach()) - float(out.logs.get("pace_loss", torch.zeros(())))
    assert losses["other_groups"] < losses["all"] - 0.1


@pytest.mark.ddp
@pytest.mark.parametrize("name", CONTRASTIVE)
def test_two_processes_are_one(name: str, ddp: Any) -> None:
    one = course(name, "other_groups")
    for rank in ddp.run(course, name, "other_groups"):
        check_same_state(one, rank, atol=1e-10)
    everything = course(name, "all")
    assert any((everything["state"][n] != v).any() for n, v in one["state"].items() if n in everything["state"])


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_chance_is_not_claimed_where_it_depends_on_the_groups(name: str) -> None:
    def chance(negatives: str) -> dict[str, float]:
        method = {"name": name, "negatives": negatives}
        settings = {"method": method, "encoder": {"name": "r3d_tiny"}, "train": {"batch_size": 4}}
        return METHODS[name].chance(resolve([Layer("test", settings)]).to_plain())

    assert "loss" not in chance("other_groups")
    assert "contrast_accuracy" not in chance("other_groups")
    assert name in ("pirl",) or "contrast_accuracy" in chance("all")


def test_a_queue_and_a_memory_without_groups_keep_their_state() -> None:
    assert "queue_groups" not in made("moco", "all").state_dict()
    assert "bank_groups" not in made("pirl", "all").state_dict()
    method = made("moco", "other_groups")
    method.enqueue(torch.randn(30, 8), torch.arange(30))
    assert method.queue_groups.tolist() == [*range(20, 30), *range(10, 20)]
