"""BG-Mixup against docs/methods/object_views.md, BG-Mixup and Video; a slow loop is the oracle."""

from __future__ import annotations

import inspect
import pickle
from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Aligned, Batch, View
from unreel.views import bg_mixup as module
from unreel.views.batch_ops import BatchOperation
from unreel.views.bg_mixup import FROM_MEMORY, UNMIXED, BGMixup, FinishViews, Rectangle, background_only
from unreel.views.presets import view_plan

SIZE = 8


def square(size: int = SIZE, *, top: int = 2, left: int = 3, side: int = 3, value: float = 1.0) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.float64)
    mask[:, top : top + side, left : left + side] = value
    return mask


def make_batch(
    count: int = 6, *, frames: int = 1, start: int = 0, masks: Tensor | None = None, groups: Tensor | None = None
) -> Batch:
    generator = torch.Generator().manual_seed(0)
    shape = (64, 3, frames, SIZE, SIZE)
    clips = torch.rand(shape, generator=generator, dtype=torch.float64)[start : start + count]
    if masks is None:
        masks = torch.stack([square(top=i % 4, left=(i * 3) % 5, side=2 + i % 3) for i in range(start, start + count)])
    ids = torch.arange(start, start + count)
    views = (
        View(clips, torch.zeros(count, frames), aligned={"mask": Aligned("soft_mask", masks)}),
        View(clips.flip(-1), torch.zeros(count, frames)),
    )
    return Batch(views, {}, ids, ids if groups is None else groups, ids)


def rows_of(result: Tensor) -> list[float]:
    """The row index that each line shows."""
    return result[0, 0, :, 0].tolist()


# --------------------------------------------------------------------------------------------------------- background


def six_by_six() -> Tensor:
    """A 6 × 6 image whose pixels are their row's number: (1, 1, 6, 6)."""
    return torch.arange(6.0)[:, None].expand(6, 6)[None, None].clone()


def test_check_C9_background_of_rows_3_and_4() -> None:
    box = Rectangle(3, 4, 0, 5)
    assert rows_of(background_only(six_by_six(), box)) == [0, 1, 2, 0, 1, 5]
    official = background_only(six_by_six(), box, variant="official")
    want = six_by_six()
    want[..., 3, :5] = 0  # row 4 and column 5 stay: the released code's line of foreground
    assert torch.equal(official, want)


@pytest.mark.parametrize("mask", [torch.zeros(1, SIZE, SIZE), torch.ones(1, SIZE, SIZE)])
def test_check_C9_empty_and_full_masks_stay_and_consume_no_draw(mask: Tensor) -> None:
    batch = make_batch(6)
    masks = batch.views[0].aligned["mask"].data.clone()
    everyone = BGMixup(probability=0.5)(batch, Key(4)).targets["bg_mixup.partner"][:, 0]
    masks[2] = mask.double()
    changed = make_batch(6, masks=masks)
    operation = BGMixup(probability=0.5)
    out = operation(changed, Key(4))
    assert torch.equal(out.views[0].data[2], changed.views[0].data[2])
    found = out.targets["bg_mixup.partner"][:, 0]
    assert found[2] == UNMIXED
    others = [i for i in range(6) if i != 2]
    # Who is built is what it was: nobody's draw moved.
    built = {i for i in others if everyone[i] != UNMIXED}
    assert {i for i in others if found[i] != UNMIXED} <= built
    assert len(operation.state_dict()["view0.block0.groups"]) == sum(
        Key(4, "view", 0, "build", i).bernoulli(0.5) for i in others
    )


@pytest.mark.parametrize(
    ("box", "source"),
    [
        (Rectangle(0, 3, 0, 5), [4, 5, 4, 5, 4, 5]),  # below alone is free: rows 4 and 5, from index 0 on
        (Rectangle(2, 5, 0, 5), [0, 1, 0, 1, 0, 1]),  # above alone
    ],
)
def test_check_C9_three_sides_touched_the_fourth_is_used(box: Rectangle, source: list[float]) -> None:
    assert rows_of(background_only(six_by_six(), box)) == source
    turned = background_only(six_by_six().mT, Rectangle(box.left, box.right, box.top, box.bottom))
    assert turned[0, 0, 0, :].tolist() == source  # the same from the left and the right


def slow_background(image: Tensor, box: Rectangle, variant: str) -> Tensor:
    """Step 3 pixel by pixel: a whole tile of the strip, then the rectangle out of it."""
    height, width = image.shape[-2:]
    t, b, le, r = box
    areas = [t * width, le * height, (width - 1 - r) * height, (height - 1 - b) * width]
    side = areas.index(max(areas))
    plus = 1 if variant == "paper" else 0
    strip = {
        0: image[:, :t],
        1: image[:, :, :le],
        2: image[:, :, r + plus :],
        3: image[:, b + plus :],
    }[side]
    out = image.clone()
    for y in range(t, b + plus):
        for x in range(le, r + plus):
            sy, sx = (y % strip.shape[1], x) if side in (0, 3) else (y, x % strip.shape[2])
            out[:, y, x] = strip[:, sy, sx]
    return out


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_background_equals_the_slow_loop(variant: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(3, 2, 7, 9, generator=generator)
    for i in range(60):
        key = Key(i)
        ys, xs = sorted(key.child("y").permutation(7)[:2].tolist()), sorted(key.child("x").permutation(9)[:2].tolist())
        box = Rectangle(*ys, *xs)
        if box == Rectangle(0, 6, 0, 8):
            continue
        got = background_only(image, box, variant=variant)
        for t in range(2):
            assert torch.equal(got[:, t], slow_background(image[:, t], box, variant)), (box, t)


def test_in_fill_keeps_the_outside_and_meets_the_edges() -> None:
    image = torch.arange(6.0)[:, None].expand(6, 6)[None, None].clone()
    image[..., 2:4, 2:4] = 99
    got = background_only(image, Rectangle(2, 3, 2, 3), fill="in_fill")
    torch.testing.assert_close(got[0, 0, :, 2], torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), atol=0.2, rtol=0)
    outside = torch.ones(6, 6, dtype=torch.bool)
    outside[2:4, 2:4] = False
    assert torch.equal(got[..., outside], image[..., outside])
    flat = background_only(torch.full((1, 1, 6, 6), 3.0), Rectangle(0, 3, 0, 5), fill="in_fill")
    torch.testing.assert_close(flat, torch.full((1, 1, 6, 6), 3.0))


# ------------------------------------------------------------------------------------------------------------- mixing


@pytest.mark.parametrize(("m", "want"), [(1.0, 4.0), (0.25, 1.0)])
def test_check_C10_mixing_by_the_mask(m: float, want: float) -> None:
    """m = 1 → x; m = 0.25, x = 4, b = 0 → 1. Outside of the mask the background shows."""
    masks = torch.stack([square(top=0, left=0, side=2, value=m), square(top=5, left=5, side=2)])
    clips = torch.zeros(2, 3, 1, SIZE, SIZE, dtype=torch.float64)
    clips[0, ..., :2, :2] = 4
    batch = make_batch(2, masks=masks)
    batch = replace(batch, views=(replace(batch.views[0], data=clips), batch.views[1]))
    key = next(k for k in map(Key, range(50)) if k.child("view", 0, "partner", 0).permutation(2).tolist() == [1, 0])
    out = BGMixup(probability=1.0)(batch, key).views[0].data
    torch.testing.assert_close(out[0, ..., :2, :2], torch.full((3, 1, 2, 2), want, dtype=torch.float64))
    assert torch.equal(out[0, ..., 3:, 3:], clips[1, ..., 3:, 3:])  # m = 0 → b
    hard = BGMixup(probability=1.0, mask_mode="hard")(batch, key).views[0].data
    assert float(hard[0, 0, 0, 0, 0]) == 4.0


def test_a_pixel_at_the_threshold_is_of_the_object() -> None:
    """Step 2: hard mask = m ≥ τ."""
    batch = make_batch(2, masks=torch.stack([square(value=0.25), square(value=0.25)]))
    mixed = BGMixup(probability=1.0, threshold=0.25, mask_mode="hard")(batch, Key(0))
    assert bool((mixed.targets["bg_mixup.partner"] >= 0).all())
    inside = mixed.views[0].data[..., 2:5, 3:6]
    assert torch.equal(inside, batch.views[0].data[..., 2:5, 3:6])
    above = BGMixup(probability=1.0, threshold=0.26, mask_mode="hard")(batch, Key(0))
    assert torch.equal(above.views[0].data, batch.views[0].data)


def test_check_C10_probability_0_changes_nothing_and_1_mixes_with_the_permutation() -> None:
    batch = make_batch(6)
    never = BGMixup(probability=0.0)
    out = never(batch, Key(1))
    assert torch.equal(out.views[0].data, batch.views[0].data)
    assert never.state_dict() == {}
    always = BGMixup(probability=1.0)
    out = always(batch, Key(1))
    order = Key(1, "view", 0, "partner", 0).permutation(6)
    assert out.targets["bg_mixup.partner"][:, 0].tolist() == order.tolist()
    assert torch.equal(out.views[1].data, batch.views[1].data)  # bitwise
    for i, j in enumerate(order.tolist()):
        mask = batch.views[0].aligned["mask"].data[i]
        box = box_of(batch.views[0].aligned["mask"].data[j, 0])
        behind = background_only(batch.views[0].data[j], box)
        want = mask * batch.views[0].data[i] + (1 - mask) * behind
        torch.testing.assert_close(out.views[0].data[i], want)


def box_of(mask: Tensor, threshold: float = 0.2) -> Rectangle:
    rows, columns = (mask >= threshold).any(1).nonzero(), (mask >= threshold).any(0).nonzero()
    return Rectangle(int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1]))


def test_check_C10_self_partner_mixes_with_its_own_background() -> None:
    batch = make_batch(1)
    out = BGMixup(probability=1.0)(batch, Key(0))
    assert out.targets["bg_mixup.partner"].tolist() == [[0]]
    mask, clip = batch.views[0].aligned["mask"].data[0], batch.views[0].data[0]
    want = mask * clip + (1 - mask) * background_only(clip, box_of(mask[0]))
    torch.testing.assert_close(out.views[0].data[0], want)
    # In clips, and where asked, never: it is the same video.
    assert BGMixup(probability=1.0, same_video=False)(batch, Key(0)).targets["bg_mixup.partner"].tolist() == [[-1]]
    clips = make_batch(1, frames=2)
    assert BGMixup(probability=1.0)(clips, Key(0)).targets["bg_mixup.partner"].tolist() == [[UNMIXED]]


class Slow:
    """Step by step, with a deque for the memory, in the page's order."""

    def __init__(self, probability: float, memory: int, variant: str) -> None:
        self.probability, self.variant = probability, variant
        self.memory: deque[Tensor] = deque(maxlen=memory)

    def __call__(self, batch: Batch, key: Key) -> Tensor:
        key = key.child("view", 0)
        x, m = batch.views[0].data[:, :, 0], batch.views[0].aligned["mask"].data
        perm = key.child("partner", 0).permutation(len(x))
        backgrounds: list[Tensor | None] = []
        for i in range(len(x)):
            hard = m[i, 0] >= 0.2
            box = box_of(m[i, 0]) if bool(hard.any()) else None
            valid = box is not None and box != Rectangle(0, SIZE - 1, 0, SIZE - 1)
            exists = valid and key.child("build", i).uniform() < self.probability
            backgrounds.append(slow_background(x[i], box, self.variant) if exists and box is not None else None)
        out = x.clone()
        for i in range(len(x)):
            own, other = backgrounds[i], backgrounds[int(perm[i])]
            if own is None:
                continue
            if other is None and self.memory:
                other = self.memory[key.child("memory", i).integer(0, len(self.memory))]
            if other is not None:
                out[i] = m[i] * x[i] + (1 - m[i]) * other
            self.memory.append(own)
        return out


@pytest.mark.parametrize("variant", ["paper", "official"])
@pytest.mark.parametrize("probability", [0.4, 0.8])
def test_batches_equal_the_slow_loop_memory_and_all(variant: Any, probability: float) -> None:
    fast, slow = BGMixup(probability=probability, memory=4, variant=variant), Slow(probability, 4, variant)
    drawn = set()
    for step in range(8):
        batch = make_batch(6, start=6 * step)
        masks = batch.views[0].aligned["mask"].data * torch.linspace(0.15, 1, 6).view(-1, 1, 1, 1)  # one has no object
        batch = make_batch(6, start=6 * step, masks=masks.double())
        out = fast(batch, Key(9, step))
        torch.testing.assert_close(out.views[0].data[:, :, 0], slow(batch, Key(9, step)), atol=1e-14, rtol=0)
        drawn |= {min(p, 0) for p in out.targets["bg_mixup.partner"][:, 0].tolist()}
        kept = fast.state_dict().get("view0.block0.images", torch.zeros(0, 1, 1, 1, 1))
        assert len(kept) == len(slow.memory) <= 4  # never above, the oldest goes first
        for image, want in zip(kept, slow.memory, strict=True):
            assert torch.equal(image[:, 0], want)
    assert drawn == {0, UNMIXED, FROM_MEMORY}


def test_check_C10_the_memory_holds_50_at_most() -> None:
    operation = BGMixup(probability=1.0)
    for step in range(10):
        operation(make_batch(6, start=6 * step), Key(step))
    groups = operation.state_dict()["view0.block0.groups"].tolist()
    assert groups == list(range(10, 60))  # the newest, in order
    off = BGMixup(probability=1.0, memory=0)
    off(make_batch(6), Key(0))
    assert len(off.state_dict()["view0.block0.images"]) == 0


def test_check_C10_share_of_mixed_images() -> None:
    """0.40 ± 0.04 over 2,000 draws; images without a valid mask do not count."""
    operation, mixed, total = BGMixup(memory=4), 0, 0
    batch = make_batch(40, masks=square().expand(40, 1, SIZE, SIZE))
    for step in range(50):
        found = operation(batch, Key(2, step)).targets["bg_mixup.partner"]
        mixed, total = mixed + int((found != UNMIXED).sum()), total + len(batch)
    assert mixed / total == pytest.approx(0.40, abs=0.04)


# --------------------------------------------------------------------------------------------------- contract and state


def test_contract() -> None:
    operation = BGMixup()
    assert isinstance(operation, BatchOperation)
    batch = make_batch(12)
    before = [v.data.clone() for v in batch.views]
    out = operation(batch, Key(0, 1))
    assert all(torch.equal(v.data, b) for v, b in zip(batch.views, before, strict=True))
    assert batch.targets == {}
    assert out.views[0].data.dtype == torch.float64
    assert torch.equal(out.views[0].data, BGMixup()(batch, Key(0, 1)).views[0].data)  # the key decides
    assert not torch.equal(out.views[0].data, BGMixup()(batch, Key(0, 2)).views[0].data)


def test_the_text_shows_every_value() -> None:
    usual = inspect.signature(BGMixup).parameters
    others = {"variant": "official", "mask_mode": "hard", "views": None, "fill": "in_fill", "motion": "static"}
    others |= {"mask": "soft", "same_video": True}
    texts = {repr(BGMixup())}
    for name, parameter in usual.items():
        value = others[name] if name in others else parameter.default / 2 if name[:2] in ("pr", "th") else 7
        texts.add(repr(BGMixup(**{name: value})))
    assert len(texts) == len(usual) + 1


def test_state_restores_the_memory_bit_for_bit() -> None:
    one = BGMixup(probability=0.6, memory=5)
    for step in range(3):
        one(make_batch(8, start=8 * step), Key(step))
    two = BGMixup(probability=0.6, memory=5)
    two.load_state_dict(one.state_dict())
    empty = BGMixup(probability=0.6, memory=5)
    three = pickle.loads(pickle.dumps(one))
    batch = make_batch(8, start=30)
    built = {k: [i for i in range(8) if Key(k, "view", 0, "build", i).bernoulli(0.6)] for k in range(50)}
    partners = {k: Key(k, "view", 0, "partner", 0).permutation(8) for k in range(50)}
    key = next(Key(k) for k in range(50) if partners[k][built[k][0]] not in built[k])  # the first needs the memory
    results = [operation(batch, key).views[0].data for operation in (one, two, three, empty)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])  # the memory matters here
    for state in ({"mean": torch.zeros(1)}, {"view0.block0.images": torch.zeros(1)}):
        with pytest.raises(UsageError, match="no state of a BGMixup"):
            two.load_state_dict(state)
    assert len(two.state_dict()) == 2  # what was refused changed nothing


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_whose_batch_is_a_multiple_of_the_block_equal_one(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partners, memories and draws: three steps on slices are three steps on the whole."""
    options: dict[str, Any] = {"block": 4, "probability": 0.6, "memory": 3}
    one, several = BGMixup(**options), [BGMixup(**options) for _ in range(processes)]
    local = 16 // processes
    for step in range(3):
        whole = one(make_batch(16, start=16 * step), Key(5, step)).views[0].data
        parts = []
        for r, operation in enumerate(several):
            monkeypatch.setattr(module, "rank", lambda r=r: r)
            batch = make_batch(local, start=16 * step + r * local)
            parts.append(operation(batch, Key(5, step)).views[0].data)
        monkeypatch.undo()
        assert torch.equal(torch.cat(parts), whole)
    joined: dict[str, Tensor] = {}
    for operation in several:
        assert not joined.keys() & operation.state_dict().keys()
        joined |= operation.state_dict()
    assert joined.keys() == one.state_dict().keys()


def test_all_views_are_mixed_apart() -> None:
    batch = make_batch(6)
    masked = replace(batch.views[1], aligned={"mask": Aligned("soft_mask", square().expand(6, 1, SIZE, SIZE))})
    batch = replace(batch, views=(batch.views[0], masked))
    operation = BGMixup(probability=1.0, views=None)
    out = operation(batch, Key(1))
    assert out.targets["bg_mixup.partner"].shape == (6, 2)
    assert not torch.equal(out.views[1].data, batch.views[1].data)
    assert torch.equal(out.views[0].data, BGMixup(probability=1.0)(batch, Key(1)).views[0].data)
    assert {name.split(".")[0] for name in operation.state_dict()} == {"view0", "view1"}


# -------------------------------------------------------------------------------------------------------------- video


def test_video_box_is_the_union_over_frames_and_backgrounds_move() -> None:
    masks = torch.stack([torch.cat([square(top=1, left=1, side=2), square(top=4, left=4, side=2)])] * 2)
    batch = make_batch(2, frames=2, masks=masks)
    key = next(k for k in map(Key, range(50)) if k.child("view", 0, "partner", 0).permutation(2).tolist() == [1, 0])
    out = BGMixup(probability=1.0)(batch, key).views[0].data
    behind = background_only(batch.views[0].data[1], Rectangle(1, 5, 1, 5))
    for t in range(2):
        want = masks[0, t] * batch.views[0].data[0, :, t] + (1 - masks[0, t]) * behind[:, t]
        torch.testing.assert_close(out[0, :, t], want)
    assert not torch.equal(behind[:, 0], behind[:, 1])
    static = background_only(batch.views[0].data[1], Rectangle(1, 5, 1, 5), motion="static")
    assert torch.equal(static[:, 0], static[:, 1])
    assert torch.equal(static[:, 0], behind[:, 1])  # the frame in the middle


def test_video_never_borrows_from_its_own_group() -> None:
    groups = torch.tensor([1, 1, 2, 1, 1, 1])
    operation = BGMixup(probability=1.0, memory=3)
    memory: list[int] = []
    for step in range(12):
        batch = make_batch(6, frames=2, groups=groups)
        held = operation.state_dict().get("view0.block0.groups", torch.zeros(0)).tolist()
        found = operation(batch, Key(step)).targets["bg_mixup.partner"][:, 0].tolist()
        for row, partner in enumerate(found):
            if partner >= 0:
                assert groups[partner] != groups[row]
            elif partner == FROM_MEMORY:
                # By then it held earlier rows, too.
                assert ({*held, *groups[:row].tolist()}) - {int(groups[row])}
        memory += [p for p in found if p == FROM_MEMORY]
    assert memory
    same = make_batch(6, frames=2, groups=torch.ones(6, dtype=torch.int64))
    alone = BGMixup(probability=1.0)
    for step in range(3):
        out = alone(same, Key(step))
        assert torch.equal(out.views[0].data, same.views[0].data)


def test_memory_of_other_lengths_loops_or_is_cut() -> None:
    for old, new in ((2, 5), (5, 2)):
        operation = BGMixup(probability=1.0, memory=1)
        operation(make_batch(1, frames=old), Key(0))
        kept = operation.state_dict()["view0.block0.images"][0]
        masks = square().expand(1, 1, SIZE, SIZE)
        batch = make_batch(1, frames=new, start=5, masks=masks)
        out = operation(batch, Key(1))
        assert out.targets["bg_mixup.partner"].tolist() == [[FROM_MEMORY]]
        outside = masks[0, 0] == 0
        for t in range(new):
            assert torch.equal(out.views[0].data[0, :, t][:, outside], kept[:, t % old][:, outside])


def test_check_C17_a_static_clip_stays_static_before_a_static_background() -> None:
    batch = make_batch(4, frames=3)
    still = batch.views[0].data[:, :, :1].expand(-1, -1, 3, -1, -1).contiguous()
    moving = torch.cat([still[:2], batch.views[0].data[2:]])
    batch = replace(batch, views=(replace(batch.views[0], data=moving), batch.views[1]))
    orders = ((key, key.child("view", 0, "partner", 0).permutation(4)) for key in map(Key, range(50)))
    key = next(key for key, order in orders if {*order[:2].tolist()} == {2, 3})  # backgrounds of moving clips
    out = BGMixup(probability=1.0, motion="static")(batch, key)
    for row in (0, 1):
        assert all(torch.equal(out.views[0].data[row, :, 0], out.views[0].data[row, :, t]) for t in (1, 2))


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.5}, "probability must be ≤ 1"),
        ({"threshold": 0.0}, "threshold must be > 0"),
        ({"memory": -1}, "memory must be ≥ 0"),
        ({"block": 0}, "block must be ≥ 1"),
        ({"variant": "code"}, "variant must be one of paper, official"),
        ({"mask_mode": "alpha"}, "mask_mode must be one of"),
        ({"fill": "blur"}, "fill must be one of"),
        ({"motion": "still"}, "motion must be one of"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BGMixup(**options)


def test_batches_that_cannot_be_mixed() -> None:
    batch = make_batch(2)
    with pytest.raises(UsageError, match="no view 2"):
        BGMixup(views=(2,))(batch, Key(0))
    with pytest.raises(UsageError, match="view 1 has no aligned data 'mask'"):
        BGMixup(views=None)(batch, Key(0))
    with pytest.raises(UsageError, match=r"after ViewPlan\.apply"):
        BGMixup()(replace(batch, views=(replace(batch.views[0], data=torch.zeros(2, 1, 8, 8, 3).byte()),)), Key(0))
    with pytest.raises(UsageError, match="do not fit clips"):
        BGMixup()(make_batch(2, masks=torch.zeros(2, 1, 4, 4)), Key(0))
    operation = BGMixup(probability=1.0)
    operation(batch, Key(0))
    small = replace(batch.views[0], data=torch.zeros(2, 3, 1, 4, 4), aligned={})
    small = replace(small, aligned={"mask": Aligned("soft_mask", square(4, top=1, left=1, side=1).expand(2, 1, 4, 4))})
    with pytest.raises(UsageError, match="a run keeps its size"):
        operation(replace(batch, views=(small,)), Key(0))


def test_finishing_keeps_no_state() -> None:
    operation = FinishViews(view_plan(size=8).finish)
    assert isinstance(operation, BatchOperation)
    operation.load_state_dict(operation.state_dict())
    with pytest.raises(UsageError, match="keeps no state"):
        operation.load_state_dict({"mean": torch.zeros(1)})
