"""MoCo (docs/methods/moco.md): head, temperature, queue, mixing, pointer and wrap."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.methods.siamese_clips import encoded, standard, tiny, views_batch
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.losses import Mixed, mixed_queue_info_nce, queue_info_nce
from unreel.methods import StepsDone, create_method
from unreel.nn import create_encoder
from unreel.nn.heads import L2Norm
from unreel.views.batch_ops import Mixup

BEGIN, END = StepsDone(0, 10), StepsDone(1, 10)


def step(method: Any, *batches: Any, applied: bool = True) -> None:
    """One optimiser step over accumulated batches, without an optimiser."""
    method.on_step_begin(BEGIN)
    for batch in batches:
        method(batch)
    method.on_step_end(END, applied)


def keys_of(method: Any, batch: Any, view: int = 1) -> Tensor:
    """What the method's teacher gives, without moving its statistics."""
    twin = copy.deepcopy(method.teacher)
    return twin(method.encoder.prepare(batch.views[view].data))  # type: ignore[no-any-return]


def test_versions() -> None:
    kinds = {
        "v1": [nn.Linear, L2Norm],
        "v2": [nn.Linear, nn.ReLU, nn.Linear, L2Norm],
        "occon": [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, L2Norm],
    }
    for version, expected in kinds.items():
        method = tiny("moco", version=version)
        assert [type(m) for m in method.head] == expected
        assert method.temperature == {"v1": 0.07, "v2": 0.2, "occon": 0.2}[version]
        z = encoded(method.head, method.encoder, views_batch(2).views[0].data)
        torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    assert tiny("moco", version="v1", temperature=0.5).temperature == 0.5
    assert tiny("moco", version="occon").head[0].bias is None
    with pytest.raises(UsageError, match="must be one of v1, v2, occon"):
        tiny("moco", version="3")


def test_defaults_are_the_published() -> None:
    found = standard("moco")
    wanted = {"queue_size": 65_536, "momentum": 0.999, "out_dim": 128, "momentum_schedule": "constant", "version": "v2"}
    assert {name: found[name] for name in wanted} == wanted
    with torch.device("meta"):
        method = create_method("moco", create_encoder("resnet_18"), version="occon", queue_size=8)
    head = sum(p.numel() for p in method.head.parameters())
    assert head == 512 * 512 + 2 * 512 + 512 * 128 + 128  # feat → feat → 128, the first without bias


def test_the_queue_starts_with_keyed_unit_vectors() -> None:
    one = tiny("moco", queue_size=50)
    torch.manual_seed(7)
    two = tiny("moco", queue_size=50)
    assert torch.equal(one.queue, two.queue)
    torch.testing.assert_close(one.queue.norm(dim=1), torch.ones(50))
    assert float((one.queue @ one.queue.T - torch.eye(50)).abs().max()) < 0.999
    assert int(one.queue_pointer) == 0
    assert {"queue", "queue_pointer"} <= one.state_dict().keys()


def test_check_C12_queue_of_eight_after_three_batches_of_four() -> None:
    method = tiny("moco", queue_size=8, momentum=1.0)
    batches = [views_batch(2, 4, seed=s) for s in range(3)]
    for batch in batches:
        step(method, batch)
    assert int(method.queue_pointer) == 4
    torch.testing.assert_close(method.queue[:4], keys_of(method, batches[2]))
    torch.testing.assert_close(method.queue[4:], keys_of(method, batches[1]))


@pytest.mark.parametrize(("size", "rows"), [(7, (4, 4, 4)), (5, (5,)), (3, (4, 4)), (3, (8,)), (10, (1, 9, 3))])
def test_the_queue_wraps_around_whatever_the_batch(size: int, rows: tuple[int, ...]) -> None:
    """Defect 11: against a ring written one key at a time."""
    method = tiny("moco", queue_size=size)
    ring, at, number = method.queue.clone(), 0, 0
    for count in rows:
        keys = torch.arange(number, number + count, dtype=torch.float32)[:, None].expand(-1, 8)
        method.enqueue(keys, torch.zeros(count, dtype=torch.int64))
        for key in keys:
            ring[at] = key
            at = (at + 1) % size
        number += count
        assert torch.equal(method.queue, ring)
        assert int(method.queue_pointer) == at


def test_keys_enter_after_the_step_of_all_accumulated_batches_and_not_after_a_skipped_one() -> None:
    method = tiny("moco", momentum=1.0)
    before = method.queue.clone()
    batches = [views_batch(2, 4, seed=s) for s in range(2)]
    method.on_step_begin(BEGIN)
    for batch in batches:
        method(batch)
        assert torch.equal(method.queue, before)  # no batch meets its own keys as negatives
    method.on_step_end(END, True)
    torch.testing.assert_close(method.queue[:8], torch.cat([keys_of(method, batch) for batch in batches]))
    assert torch.equal(method.queue[8:], before[8:])
    assert int(method.queue_pointer) == 8
    before = method.queue.clone()
    step(method, batches[0], applied=False)
    step(method.eval(), batches[0])  # nor from validation
    assert torch.equal(method.queue, before)
    assert int(method.queue_pointer) == 8


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({}, [(0, 1)]),
        ({"symmetric": True}, [(0, 1), (1, 0)]),
        ({"rho": 3}, [(0, 1), (0, 2), (1, 2)]),
        ({"rho": 3, "symmetric": True}, [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]),
    ],
)
def test_the_loss_is_the_mean_over_pairs_of_views(options: dict[str, Any], pairs: list[tuple[int, int]]) -> None:
    method = tiny("moco", **options).eval()
    nn.init.normal_(method.teacher.parts[1][0].weight, generator=torch.Generator().manual_seed(1))
    batch = views_batch(method.sampler.num_views)
    clips = [method.encoder.prepare(view.data) for view in batch.views]
    queries = [method.head(method.encoder(x)) for x in clips]
    keys = [method.teacher(x) for x in clips]
    losses = [queue_info_nce(queries[i], keys[j], method.queue, 0.2) for i, j in pairs]
    torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean())


@pytest.mark.parametrize("weighting", ["paper", "official"])
def test_mixing_reaches_the_loss_of_the_first_view_alone(weighting: Any) -> None:
    method = tiny("moco", mix="mixup", mix_weighting=weighting, rho=3).eval()
    batch = Mixup()(views_batch(3), Key("mix"))
    mixed = Mixed(batch.targets["mixup.weight"], batch.targets["mixup.partner"])
    clips = [method.encoder.prepare(view.data) for view in batch.views]
    queries, keys = [method.head(method.encoder(x)) for x in clips], [method.teacher(x) for x in clips]
    losses = [
        mixed_queue_info_nce(queries[0], keys[1], method.queue, mixed, weighting=weighting),
        mixed_queue_info_nce(queries[0], keys[2], method.queue, mixed, weighting=weighting),
        queue_info_nce(queries[1], keys[2], method.queue),
    ]
    torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean())
    assert not torch.equal(method(batch).loss, method(replace(batch, targets={})).loss)


def test_a_mixed_view_is_no_key() -> None:
    with pytest.raises(UsageError, match="set symmetric to false"):
        tiny("moco", symmetric=True, mix="cutmix")
    with pytest.raises(UsageError, match="set symmetric to false"):
        tiny("moco", symmetric=True)(Mixup()(views_batch(2), Key("mix")))
    with pytest.raises(UsageError, match="mix_weighting"):
        tiny("moco", mix_weighting="oficial")


def test_accuracy_is_logged() -> None:
    method = tiny("moco", queue_size=4).eval()
    method.queue.copy_(-keys_of(method, views_batch(2)))
    batch = views_batch(2)
    same = replace(batch, views=(batch.views[1], batch.views[1]))
    assert float(method(same).logs["contrast_accuracy"]) == 1
    method.queue.copy_(2 * keys_of(method, views_batch(2)))
    assert float(method(same).logs["contrast_accuracy"]) == 0
