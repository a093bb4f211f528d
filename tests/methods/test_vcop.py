"""VCOP (docs/methods/vcop.md)."""

from __future__ import annotations

import math

import pytest
import torch

from tests.methods.numbered import batch_of, frames_of, tiny
from unreel.methods import create_method
from unreel.nn import count_parameters, create_encoder


@pytest.mark.parametrize(("snippets", "count"), [(2, 525_826), (3, 534_022), (4, 598_552)])
def test_check_1_head_counts(snippets: int, count: int) -> None:
    with torch.device("meta"):
        method = create_method("vcop", create_encoder("c3d"), num_snippets=snippets)
    assert count_parameters(method.head) == count
    assert len(method.head.pairs) == snippets * (snippets - 1) // 2  # type: ignore[arg-type]
    assert method.sampler.num_views == snippets


@pytest.mark.parametrize("snippets", [2, 3, 4])
def test_the_label_is_the_order_of_the_frames(snippets: int) -> None:
    batch = batch_of(tiny("vcop", num_snippets=snippets), 40, applied=False)
    first = torch.stack([frames_of(view.data)[:, 0] for view in batch.views], 1)
    order = first.argsort(1).argsort(1)  # rank of every position in time
    assert torch.equal(order, batch.targets["order"])
    place = [math.factorial(snippets - 1 - p) for p in range(snippets)]
    smaller = torch.stack([(order[:, p + 1 :] < order[:, p : p + 1]).sum(1) for p in range(snippets)], 1)
    assert torch.equal((smaller * torch.tensor(place)).sum(1), batch.targets["order_class"])


def test_a_network_blind_to_time_is_at_chance() -> None:
    """Without what tells the snippets apart every order has the same scores."""
    method = tiny("vcop", dropout=0.0).eval()
    batch = batch_of(method, 12)
    scores = method.head(torch.ones(12, 3, 12), batch.key, batch.sample_id)  # type: ignore[operator]
    assert torch.equal(scores, scores[:1].expand_as(scores))
