"""SimCLR: CVRL's loss over all pairs of views."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from tests.methods.siamese_clips import standard, tiny, views_batch
from unreel.losses import contrast_statistics, nt_xent


def test_defaults_are_the_published() -> None:
    found = standard("simclr")
    assert {n: found[n] for n in ("temperature", "out_dim", "hidden_layers")} == {
        "temperature": 0.1, "out_dim": 128, "hidden_layers": 1,
    }  # fmt: skip
    head = tiny("simclr", hidden_layers=2, bn_momentum=0.2).head
    assert [type(m) for m in head].count(nn.Linear) == 3
    assert head[1].momentum == 0.2


@pytest.mark.parametrize("rho", [1, 2, 4])
def test_the_loss_is_the_mean_of_cvrls_over_all_pairs_from_one_pass(rho: int) -> None:
    method, twin = tiny("simclr", rho=rho, temperature=0.3), tiny("simclr", rho=rho)
    count = max(2, rho)
    batch = views_batch(count)
    calls: list[int] = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    found = method(batch)
    assert calls == [4 * count]
    z = twin.head(twin.encoder(torch.cat([view.data for view in batch.views]))).chunk(count)
    losses = [nt_xent(a, b, 0.3) for a, b in itertools.combinations(z, 2)]
    torch.testing.assert_close(found.loss, sum(losses) / len(losses))
    logged = contrast_statistics(z[0], z[1], temperature=0.3)
    torch.testing.assert_close(found.logs["contrast_entropy"], logged.entropy)
    assert found.logs["contrast_accuracy"] == logged.accuracy
