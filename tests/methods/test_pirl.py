"""PIRL: the jigsaw's geometry, the memory's course, two processes, resume (Misra and van der Maaten 2020)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.methods.clips import sample, video
from tests.methods.siamese_clips import batch_of_views, check_same_state, fit_on_share, standard, tiny
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import collate
from unreel.losses import memory_nce
from unreel.methods import PIRL, StepsDone, create_method
from unreel.methods.pirl import Jigsaw
from unreel.nn import create_encoder
from unreel.views.presets import view_plan


def places(size: int, rows: int = 5, frames: int = 2) -> torch.Tensor:
    """Clips whose two channels are y and x of each pixel: (rows, 2, frames, size, size)."""
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).float()
    return grid[None, :, None].expand(rows, 2, frames, size, size)


def test_jigsaw_patches_are_places_of_all_cells_in_a_drawn_order() -> None:
    patches = Jigsaw(3, 4).cut(places(15), Key("a"), torch.arange(5))
    assert patches.shape == (5, 9, 2, 2, 4, 4)
    corner = patches[:, :, :, 0, 0, 0].long()  # y, x of the upper left pixel
    step = torch.arange(4)
    torch.testing.assert_close(
        patches[:, :, 0, 0], (corner[:, :, 0, None, None] + step[:, None]).float().expand(-1, -1, 4, 4)
    )
    torch.testing.assert_close(patches[:, :, 1, 0], (corner[:, :, 1, None, None] + step).float().expand(-1, -1, 4, 4))
    assert torch.equal(patches[:, :, :, 0], patches[:, :, :, 1])  # all frames alike
    cells = corner[..., 0] // 5 * 3 + corner[..., 1] // 5
    assert torch.equal(cells.sort(1).values, torch.arange(9).expand(5, 9))  # each cell once
    assert len({tuple(row) for row in cells.tolist()}) == 5  # orders differ between samples
    assert ((corner % 5) <= 1).all()  # a patch stays within its cell
    assert set((corner % 5).flatten().tolist()) == {0, 1}


def test_every_order_and_place_comes_as_often() -> None:
    rows = 3000
    patches = Jigsaw(2, 3).cut(places(8, rows, 1), Key("b"), torch.arange(rows))
    corner = patches[:, :, :, 0, 0, 0].long()
    cells = corner[..., 0] // 4 * 2 + corner[..., 1] // 4
    orders = torch.unique(cells, dim=0, return_counts=True)[1]
    assert len(orders) == 24
    assert float(orders.min()) > 0.6 * rows / 24  # 125 expected, deviation 11
    assert float((corner % 4).float().mean()) == pytest.approx(0.5, abs=0.02)


def test_jigsaw_is_of_the_sample_and_the_step() -> None:
    ids = torch.tensor([7, 3, 9])
    clips = places(12, 3)
    one = Jigsaw(3, 3).cut(clips, Key("s", 1), ids)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(Jigsaw(3, 3).cut(clips, Key("s", 1), ids[order]), one[order])
    assert not torch.equal(Jigsaw(3, 3).cut(clips, Key("s", 2), ids), one)
    for size, grid, patch in ((10, 3, 3), (9, 3, 4), (9, 3, 0), (9, 1, 3)):
        with pytest.raises(UsageError, match=r"jigsaw_size is a|(patch_px|grid) must be ≥"):
            Jigsaw(grid, patch).cut(places(size), Key("s"), torch.arange(5))


def test_settings_of_the_release_by_default() -> None:
    found = standard("pirl")
    wanted = {"size": 224, "grid": 3, "jigsaw_area_min": 0.6, "out_dim": 128, "jigsaw_weight": 0.5}
    wanted |= {"num_negatives": 32_000, "temperature": 0.07, "memory_momentum": 0.5, "num_sources": None, "rho": 1}
    assert {name: found[name] for name in wanted} == wanted
    with torch.device("meta"):
        method = PIRL(create_encoder("resnet_18"), num_sources=4)
    assert (method.jigsaw.patch(225), method.views.pipelines[1][0].size) == (64, 225)
    assert (method.views.pipelines[0], method.bank.shape) == (view_plan("occon").pipelines[0], (4, 128))


@pytest.mark.parametrize("options", [{}, {"loss": "info_nce", "jigsaw_weight": 0.2, "temperature": 0.5}, {"rho": 2}])
def test_loss_is_that_of_each_part(options: dict[str, Any]) -> None:
    """f of the image and g of its jigsaw, each against the source's entry and all others of the memory."""
    method = tiny("pirl", clip_frames=1, **options)
    for norm in (method.encoder.bn1,):
        norm.eval()
    batch = batch_of_views(method)
    image, whole = (method.encoder.prepare(v.data) for v in batch.views)
    f = functional.normalize(method.head[0](method.encoder(image)), dim=1)
    patches = Jigsaw(3, 4).cut(whole, batch.key, batch.sample_id)
    parts = torch.stack([method.encoder(patches[:, i]) for i in range(9)], 1)
    g = functional.normalize(method.jigsaw_head.join(method.jigsaw_head.patch(parts).flatten(1)), dim=1)
    weight, kind = options.get("jigsaw_weight", 0.5), options.get("loss", "nce")
    wanted = 0.0
    for share, q in ((weight, g), (1 - weight, f)):
        for i in range(4):
            others = torch.cat([method.bank[:i], method.bank[i + 1 :]])
            temperature = options.get("temperature", 0.07)
            wanted = wanted + share / 4 * memory_nce(
                q[i : i + 1], method.bank[i : i + 1], others, temperature, kind=kind
            )
    loss = method(batch).loss
    torch.testing.assert_close(loss, wanted)
    heads = [next(method.head.parameters()), next(method.jigsaw_head.patch.parameters())]  # of the image, of patches
    torch.testing.assert_close(torch.autograd.grad(loss, heads), torch.autograd.grad(wanted, heads))


def test_negatives_are_drawn_for_the_step_and_the_own_entry_is_none() -> None:
    method = tiny("pirl", num_sources=1000, num_negatives=400)
    batch = batch_of_views(method)
    drawn = method.negatives(batch)
    assert drawn.shape == (400,)
    assert 0 <= int(drawn.min()) < int(drawn.max()) < 1000
    assert float(drawn.float().mean()) == pytest.approx(499.5, abs=60)  # deviation 14
    assert torch.equal(drawn, method.negatives(batch))
    assert not torch.equal(drawn, method.negatives(replace(batch, key=Key("another"))))
    own = replace(batch, row=drawn[:4])  # entries that were drawn
    loss = method(own).loss
    method.bank[drawn[:4]] *= -1  # with its positive, no negative of it has changed but by other samples
    assert torch.isfinite(loss)
    assert torch.equal(tiny("pirl", num_negatives=9).negatives(batch), torch.arange(9))


def test_an_entry_takes_half_of_its_image_after_an_applied_step() -> None:
    method = tiny("pirl").train()
    batch = replace(batch_of_views(method), row=torch.tensor([5, 0, 8, 3]))
    before = method.bank.clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(9))
    f = method.head(method.encoder(method.encoder.prepare(batch.views[0].data))).detach()
    method.on_step_begin(StepsDone(0, 4))
    method(batch)
    assert torch.equal(method.bank, before)  # not before the step
    method.on_step_end(StepsDone(1, 4), False)
    assert torch.equal(method.bank, before)  # nor after a skipped one
    method(batch)
    method.on_step_end(StepsDone(1, 4), True)
    wanted = before.clone()
    wanted[batch.row] = functional.normalize(0.5 * before[batch.row] + 0.5 * f, dim=1)
    torch.testing.assert_close(method.bank, wanted)
    kept = tiny("pirl", memory_momentum=0.9)
    kept(batch)
    kept.on_step_end(StepsDone(1, 4), True)
    torch.testing.assert_close(kept.bank[5], functional.normalize(0.9 * before[5] + 0.1 * f[0], dim=0))


def test_validation_asks_of_rows_that_the_memory_does_not_know() -> None:
    method = tiny("pirl").eval()
    batch = replace(batch_of_views(method), row=torch.tensor([100, 101, 102, 103]))
    before = method.bank.clone()
    output = method(batch)
    method.on_step_end(StepsDone(1, 4), True)
    assert torch.isfinite(output.loss)
    assert float(output.logs["image_accuracy"]) == 1  # its entry is itself
    assert torch.equal(method.bank, before)


def test_accuracy_is_logged() -> None:
    method = tiny("pirl", loss="info_nce")
    batch = batch_of_views(method)
    with torch.no_grad():
        f = method.head(method.encoder(method.encoder.prepare(batch.views[0].data)))
    method.bank.copy_(-f.mean(0, keepdim=True).expand(9, -1))
    method.bank[:4] = f
    assert float(method(batch).logs["image_accuracy"]) == 1
    method.bank[:4] = -f
    assert float(method(batch).logs["image_accuracy"]) == 0


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"num_sources=len\(manifest\)"):
        tiny("pirl", num_sources=None)
    with pytest.raises(UsageError, match="use 18"):
        tiny("pirl", jigsaw_size=16)
    with pytest.raises(UsageError, match="rho is 1 or 2"):
        tiny("pirl", rho=3)
    with pytest.raises(UsageError, match="'info_nce'"):
        tiny("pirl", loss="infonce")
    method = tiny("pirl")
    with pytest.raises(UsageError, match="row 9 has no place in a memory of 9"):
        method(replace(batch_of_views(method), row=torch.tensor([9, 0, 1, 2])))


def test_trains_on_clips_of_a_video() -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    options = {"clip_frames": 4, "size": 16, "jigsaw_size": 27, "out_dim": 8, "num_sources": 5}
    method = create_method("pirl", encoder, seed=0, rho=2, **options)
    drawn = [sample(method, video(0, i), i, Key(i)) for i in range(3)]
    assert [tuple(v.data.shape) for v in drawn[0].views] == [(4, 16, 16, 3), (4, 27, 27, 3)]
    loss = method(method.views.apply(collate(drawn))).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.ddp
@pytest.mark.parametrize("options", [{}, {"num_negatives": 5}])
def test_two_processes_are_one(ddp: Any, options: dict[str, Any]) -> None:
    truth = fit_on_share("pirl", options)
    for rank in ddp.run(fit_on_share, "pirl", options):
        check_same_state(truth, rank, atol=1e-9)
        assert rank["last"]["loss"] == pytest.approx(truth["last"]["loss"], rel=1e-5)


def test_stop_and_resume_is_equal_to_the_bit(tmp_path: Path) -> None:
    """The memory included."""
    options = {"num_negatives": 5}
    whole = fit_on_share("pirl", options)
    fit_on_share("pirl", options, 1, str(tmp_path), 2)
    resumed = fit_on_share("pirl", options, 1, str(tmp_path))
    assert resumed["resumed_from"] == 2
    assert "bank" in whole["state"]
    check_same_state(whole, resumed)
