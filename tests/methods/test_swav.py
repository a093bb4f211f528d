"""SwAV: views of two sizes, prototypes on the sphere and frozen at first, the queue, two processes, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.clips import sample, video
from tests.methods.siamese_clips import batch_of_views, check_same_state, fit_on_share, standard, tiny
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import collate
from unreel.losses import sinkhorn, swapped_prediction
from unreel.methods import StepsDone

QUEUED = {"queue_size": 12, "queue_epoch": 0, "freeze_steps": 2}


def test_settings_of_the_release_by_default() -> None:
    found = standard("swav")
    wanted = {
        **{"size": 224, "crop_area_min": 0.14, "small_views": 6, "small_size": 96, "small_area_min": 0.05},
        **{"small_area_max": 0.14, "num_prototypes": 3000, "epsilon": 0.05, "iterations": 3, "temperature": 0.1},
        **{"freeze_steps": 313, "queue_size": 0, "queue_epoch": 15, "hidden_dim": 2048, "out_dim": 128, "rho": 2},
    }
    assert {name: found[name] for name in wanted} == wanted


def test_small_views_cover_less_and_come_from_the_large_views_clips() -> None:
    method = tiny("swav", small_views=3, small_area_min=0.1, small_area_max=0.2, rho=2, blur_p=0.0)
    drawn = [sample(method, video(0, i, frames=30), i, Key(i)) for i in range(4)]
    assert [tuple(v.data.shape) for v in drawn[0].views] == [(4, 16, 16, 3)] * 2 + [(4, 8, 8, 3)] * 3
    for item in drawn:
        times = [v.times_s.tolist() for v in item.views]
        assert times[2] == times[4] == times[0] != times[1] == times[3]
        for i, view in enumerate(item.views):
            left, top, right, bottom = view.params["geometry.box"][0].tolist()
            area = (right - left) * (bottom - top) / 24**2
            # Boxes are whole pixels, so that small ones are off by as much as a pixel a side.
            assert (0.09 < area <= 1.01) if i < 2 else (0.05 < area < 0.28)
    batch = method.views.apply(collate(drawn))
    loss = method(batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    single = tiny("swav", rho=1, small_views=2)
    item = sample(single, video(0, 0, frames=30), 0, Key(0))
    assert len({tuple(v.times_s.tolist()) for v in item.views}) == 1


def test_loss_is_that_of_each_part() -> None:
    """Every view through encoder, head and prototypes; the two large ones are assigned, the small ones predict."""
    method = tiny("swav", clip_frames=1).eval()
    batch = batch_of_views(method)
    views = [method.head(method.encoder(method.encoder.prepare(v.data))) for v in batch.views]
    assert all(torch.allclose(z.norm(dim=1), torch.ones(4)) for z in views)
    scores = [z @ method.prototypes.weight.T for z in views]
    wanted = swapped_prediction(scores, {i: sinkhorn(scores[i]) for i in (0, 1)})
    found = method(batch)
    torch.testing.assert_close(found.loss, wanted)
    same = (scores[0].argmax(1) == scores[1].argmax(1)).float().mean()
    torch.testing.assert_close(found.logs["agreement"], same)
    assert 1 / 6 < float(found.logs["prototypes_used"]) <= 1.0
    knobs = tiny("swav", clip_frames=1, epsilon=0.5, iterations=1, temperature=0.3).eval()
    wanted = swapped_prediction(scores, {i: sinkhorn(scores[i], epsilon=0.5, iterations=1) for i in (0, 1)}, 0.3)
    torch.testing.assert_close(knobs(batch).loss, wanted)


def test_views_of_one_size_go_together() -> None:
    method = tiny("swav", small_views=3)
    seen: list[tuple[int, ...]] = []
    method.encoder.register_forward_pre_hook(lambda _, x: seen.append(tuple(x[0].shape)))
    method(batch_of_views(method))
    assert seen == [(8, 3, 4, 16, 16), (12, 3, 4, 8, 8)]


def test_one_cluster_for_all_shows_in_the_logs() -> None:
    method = tiny("swav", temperature=0.01).eval()
    with torch.no_grad():
        method.head[-2].weight.zero_()
        method.head[-2].bias.copy_(method.prototypes.weight[3])
    logs = method(batch_of_views(method)).logs
    assert float(logs["agreement"]) == 1
    assert float(logs["prototypes_used"]) == pytest.approx(1 / 6, rel=1e-3)


def run_step(method: Any, step: int, optimizer: torch.optim.Optimizer, *, applied: bool = True, epoch: int = 0) -> Any:
    progress = StepsDone(step, 10, epoch)
    method.on_step_begin(progress)
    optimizer.zero_grad()
    output = method(batch_of_views(method, seed=step))
    output.loss.backward()
    method.on_gradients()
    if applied:
        optimizer.step()
    method.on_step_end(progress._replace(step=step + 1), applied)
    return output


def test_prototypes_stay_at_first_and_are_of_unit_length_at_each_step() -> None:
    method = tiny("swav", freeze_steps=2)
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)
    start = method.prototypes.weight.detach().clone()
    for step in range(2):
        run_step(method, step, optimizer)
        torch.testing.assert_close(method.prototypes.weight, start, rtol=0, atol=1e-6)
    run_step(method, 2, optimizer)
    moved = method.prototypes.weight.detach().clone()
    assert not torch.allclose(moved, start, atol=1e-3)
    assert not torch.allclose(moved.norm(dim=1), torch.ones(6), atol=1e-4)
    method.on_step_begin(StepsDone(3, 10))
    torch.testing.assert_close(method.prototypes.weight, torch.nn.functional.normalize(moved, dim=1))


def test_the_queue_is_filled_then_used_and_a_skipped_step_leaves_it() -> None:
    method = tiny("swav", queue_size=8, queue_epoch=2, freeze_steps=0)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.0)
    run_step(method, 0, optimizer, epoch=1)
    assert int(method.queue_filled) == 0  # an epoch too early
    run_step(method, 1, optimizer, epoch=2, applied=False)
    assert not method.queue.any()
    plain = tiny("swav", freeze_steps=0)
    plain.train(method.training).load_state_dict({**method.state_dict(), "queue": plain.queue})
    still = torch.optim.SGD(plain.parameters(), lr=0.0)
    for step in (2, 3):  # half a queue takes no part
        found = run_step(method, step, optimizer, epoch=2).loss
        assert torch.equal(found, run_step(plain, step, still).loss)
        assert int(method.queue_filled) == 4 * (step - 1)
    with torch.no_grad():
        kept = [method.projections([method.encoder.prepare(v.data) for v in batch_of_views(method, seed=s).views])
                for s in (2, 3)]  # fmt: skip
    for view in (0, 1):  # oldest first
        torch.testing.assert_close(method.queue[view], torch.cat([kept[0][view], kept[1][view]]))
    earlier = method.queue.clone()
    found = run_step(method, 4, optimizer, epoch=2).loss
    with torch.no_grad():
        batch = batch_of_views(method, seed=4)
        scores = [
            method.prototypes(z) for z in method.projections([method.encoder.prepare(v.data) for v in batch.views])
        ]
        wanted = {i: sinkhorn(scores[i], others=method.prototypes(earlier[i])) for i in (0, 1)}
        torch.testing.assert_close(found.detach(), swapped_prediction(scores, wanted))
        assert not torch.allclose(found, swapped_prediction(scores, {i: sinkhorn(scores[i]) for i in (0, 1)}))
    torch.testing.assert_close(method.queue[:, :4], earlier[:, 4:])  # the oldest are pushed out
    before = method.queue.clone()
    method.eval()(batch)
    method.on_step_end(StepsDone(6, 10, 2), True)
    assert torch.equal(method.queue, before)  # validation leaves no trace


def test_refusals() -> None:
    for options in ({"num_prototypes": 1}, {"epsilon": 0.0}, {"iterations": 0}, {"rho": 0}, {"small_views": -1}):
        with pytest.raises(UsageError):
            tiny("swav", **options)
    method = tiny("swav", small_views=0)
    assert method.sampler.num_views == method.views.num_views == 2
    assert torch.isfinite(method(batch_of_views(method)).loss)


@pytest.mark.ddp
@pytest.mark.parametrize(("name", "accumulate"), [("swav", 1), ("swav", 2)])
def test_two_processes_are_one(ddp: Any, name: str, accumulate: int) -> None:
    """Assignments, queue and batch norms over the global batch; after step 2 the queue of 12 takes part."""
    truth = fit_on_share(name, QUEUED, accumulate)
    for rank in ddp.run(fit_on_share, name, QUEUED, accumulate):
        check_same_state(truth, rank, atol=1e-9)
        assert rank["last"]["prototypes_used"] == pytest.approx(truth["last"]["prototypes_used"], rel=1e-5)
    assert int(truth["state"]["queue_filled"]) == 12


def test_stop_and_resume_is_equal_to_the_bit(tmp_path: Path) -> None:
    whole = fit_on_share("swav", QUEUED)
    fit_on_share("swav", QUEUED, 1, str(tmp_path), 2)
    resumed = fit_on_share("swav", QUEUED, 1, str(tmp_path))
    assert resumed["resumed_from"] == 2
    assert {"queue", "queue_filled", "prototypes.weight"} <= whole["state"].keys()
    check_same_state(whole, resumed)
    assert np.abs(whole["state"]["queue"]).sum() > 0


def test_object_switches_reach_all_views() -> None:
    method = tiny("swav", bg_mixup="gt", object_crop="cam")
    assert (method.sidecars, method.aligned, len(method.batch_operations)) == (("boxes",), ("file.mask",), 1)
    assert method.views.num_views == method.sampler.num_views == 4
    assert {pipeline[0].name for pipeline in method.views.pipelines} == {"object"}
