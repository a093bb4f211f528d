"""Mixing: identities, convexity, one global batch however it is sliced, and no trace on the input."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch, View
from unreel.views import batch_ops
from unreel.views.batch_ops import BatchOperation, CutMix, Mixup


def make_batch(count: int = 12, *, start: int = 0, views: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(64, 3, 2, 10, 14, generator=generator, dtype=torch.float64)[start : start + count]
    ids = torch.arange(start, start + count)
    made = tuple(View(clips * (v + 1) / views, torch.zeros(count, 2)) for v in range(views))
    return Batch(made, {"order": ids.clone()}, ids, ids, ids)


@pytest.mark.parametrize("operation", [Mixup(), CutMix(), CutMix(per_sample=True)])
def test_contract(operation: BatchOperation) -> None:
    assert isinstance(operation, BatchOperation)
    batch = make_batch()
    before = [v.data.clone() for v in batch.views]
    out = operation(batch, Key(0, 1))
    assert all(torch.equal(v.data, b) for v, b in zip(batch.views, before, strict=True))
    assert set(batch.targets) == {"order"}
    assert torch.equal(out.targets["order"], batch.targets["order"])
    assert torch.equal(out.views[1].data, before[1])  # the first view alone is mixed
    assert not torch.equal(out.views[0].data, before[0])
    assert out.views[0].data.dtype == torch.float64
    again = operation(batch, Key(0, 1))
    assert torch.equal(out.views[0].data, again.views[0].data)
    assert not torch.equal(out.views[0].data, operation(batch, Key(0, 2)).views[0].data)
    assert not torch.equal(out.views[0].data, operation(batch, Key(1, 1)).views[0].data)
    operation.load_state_dict(operation.state_dict())
    assert torch.equal(operation(batch, Key(0, 1)).views[0].data, out.views[0].data)
    with pytest.raises(UsageError):
        operation.load_state_dict({"memory": torch.zeros(1)})


def test_mixup_is_the_recorded_convex_combination() -> None:
    batch = make_batch()
    out = Mixup(alpha=0.5, fold=False)(batch, Key(3))
    weight, partner = out.targets["mixup.weight"], out.targets["mixup.partner"]
    x = batch.views[0].data
    for i in range(len(batch)):
        w = float(weight[i])
        assert 0 <= w <= 1
        torch.testing.assert_close(out.views[0].data[i], w * x[i] + (1 - w) * x[partner[i]], atol=1e-6, rtol=0)
        assert bool((out.views[0].data[i] <= torch.maximum(x[i], x[partner[i]]) + 1e-12).all())
        assert bool((out.views[0].data[i] >= torch.minimum(x[i], x[partner[i]]) - 1e-12).all())
    assert len(set(weight.tolist())) == len(batch)  # one weight per sample
    assert (Mixup()(batch, Key(3)).targets["mixup.weight"] >= 0.5).all()
    assert torch.equal(Mixup(weight=1.0)(batch, Key(3)).views[0].data, x)
    none = Mixup(weight=0.0)(batch, Key(3))
    assert torch.equal(none.views[0].data, x[none.targets["mixup.partner"]])


def test_mixup_weights_follow_their_distribution() -> None:
    keys = [Key(7, i) for i in range(4000)]
    for alpha in (1.0, 0.3):
        plain = torch.tensor([Mixup(alpha, fold=False)._weight(k) for k in keys])
        assert float(plain.mean()) == pytest.approx(0.5, abs=0.03)
        assert float(plain.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    folded = torch.tensor([Mixup()._weight(k) for k in keys])
    assert float(folded.mean()) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("per_sample", [False, True])
def test_cutmix_pastes_the_recorded_box(per_sample: bool) -> None:
    batch = make_batch()
    out = CutMix(per_sample=per_sample, fold=False)(batch, Key(3))
    weight, partner, boxes = (out.targets[f"cutmix.{n}"] for n in ("weight", "partner", "box"))
    x, got = batch.views[0].data, out.views[0].data
    for i in range(len(batch)):
        x1, y1, x2, y2 = (int(v) for v in boxes[i])
        want = x[i].clone()
        want[..., y1:y2, x1:x2] = x[partner[i], ..., y1:y2, x1:x2]
        assert torch.equal(got[i], want)
        assert float(weight[i]) == pytest.approx(1 - (x2 - x1) * (y2 - y1) / 140)
        assert 0 <= x1 <= x2 <= 14
        assert 0 <= y1 <= y2 <= 10
    assert (len({tuple(b) for b in boxes.tolist()}) == 1) != per_sample


def test_cutmix_boxes_have_the_frame_s_shape() -> None:
    """Off the border, both sides are √(1 − λ) of the frame's; the centre is uniform over the frame."""
    operation = CutMix(fold=False)
    boxes = [operation.box(Key(i), 400, 1000) for i in range(400)]
    for i, box in enumerate(boxes):
        side = (1 - operation._weight(Key(i, "weight"))) ** 0.5
        if box.left > 0 and box.right < 1000:
            assert (box.right - box.left) / 1000 == pytest.approx(side, abs=0.002)
    inside = [b for b in boxes if b.left > 0 and b.top > 0 and b.right < 1000 and b.bottom < 400]
    assert len(inside) > 50
    for box in inside:
        assert (box.right - box.left) / 1000 == pytest.approx((box.bottom - box.top) / 400, abs=0.01)
        assert box.weight == pytest.approx(1 - (box.right - box.left) ** 2 / 1e6, abs=0.01)
    assert sum((b.left + b.right) / 2 for b in inside) / len(inside) == pytest.approx(500, abs=60)
    assert sum((b.top + b.bottom) / 2 for b in inside) / len(inside) == pytest.approx(200, abs=25)


def test_partners_are_permutations_within_blocks() -> None:
    batch = make_batch(12)
    for i in range(20):
        partner = Mixup(block=4)(batch, Key(i)).targets["mixup.partner"].view(3, 4)
        assert torch.equal(partner.sort(1).values, torch.arange(12).view(3, 4))
    assert len({tuple(Mixup(block=4)(batch, Key(i)).targets["mixup.partner"][:4].tolist()) for i in range(200)}) == 24
    assert torch.equal(Mixup()(make_batch(1), Key(0)).views[0].data, make_batch(1).views[0].data)


@pytest.mark.parametrize("operation", [Mixup(block=4), CutMix(block=4), CutMix(block=4, per_sample=True)])
@pytest.mark.parametrize("processes", [2, 4])
def test_slices_of_the_global_batch_mix_as_the_whole(
    operation: Any, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = operation(make_batch(16), Key(5, 2)).views[0].data
    local = 16 // processes
    parts = []
    for r in range(processes):
        monkeypatch.setattr(batch_ops, "rank", lambda r=r: r)
        parts.append(operation(make_batch(local, start=r * local), Key(5, 2)).views[0].data)
    assert torch.equal(torch.cat(parts), whole)


def test_cutmix_pastes_the_smaller_share() -> None:
    """λ ← max(λ, 1 − λ) is the row's own share: 3/4 on average at α = 1, more where the frame cuts the box."""
    weights = [CutMix().box(Key(i), 64, 64).weight for i in range(400)]
    assert 0.74 < sum(weights) / 400 < 0.9
    assert min(weights) > 0.45


def test_processes_that_would_mix_otherwise_than_one_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_ops, "world_size", lambda: 2)
    with pytest.raises(UsageError, match=r"blocks of 8 rows, and each of 2 processes has 12.*multiple of 16"):
        CutMix()(make_batch(12), Key(0))
    CutMix(block=4)(make_batch(12), Key(0))


def test_errors() -> None:
    batch = make_batch()
    with pytest.raises(UsageError, match="alpha must be > 0, got"):
        Mixup(alpha=0.0)
    with pytest.raises(UsageError, match="weight must be ≤ 1, got"):
        Mixup(weight=1.5)
    with pytest.raises(UsageError, match="block must be ≥ 1, got"):
        CutMix(block=0)
    with pytest.raises(UsageError, match="there is no view 2, the batch has 2"):
        Mixup(views=(2,))(batch, Key(0))
    raw = Batch((View(torch.zeros(2, 2, 8, 8, 3, dtype=torch.uint8), torch.zeros(2, 2)),), {}, *[torch.arange(2)] * 3)
    with pytest.raises(UsageError, match=r"after ViewPlan\.apply"):
        CutMix()(raw, Key(0))
    small = View(torch.rand(12, 3, 2, 8, 8, dtype=torch.float64), torch.zeros(12, 2))
    mixed = Batch((batch.views[0], small), {}, batch.sample_id, batch.group, batch.row)
    with pytest.raises(UsageError, match="different sizes"):
        CutMix(views=(0, 1))(mixed, Key(0))
