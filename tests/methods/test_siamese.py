"""What SimCLR, MoCo and BYOL share, on the reading of docs/methods/moco.md; docs/methods/object_views.md, Mixup and
CutMix and docs/methods/simclr.md, Clips: views of ρ clips, queue and teacher on two processes (SyncBN included), stop
and resume to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.methods.clips import sample, video
from tests.methods.siamese_clips import (
    OneLayer,
    batch_of_views,
    check_same_state,
    fit_on_share,
    image_batch,
    standard,
    tiny,
    views_batch,
)
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import collate
from unreel.data.sampling import ClipSetSampler
from unreel.methods import BYOL, MoCo, StepsDone, SwAV, create_method
from unreel.nn import create_encoder
from unreel.nn.heads import unit_linear
from unreel.train import build_optimizer, fit
from unreel.views.batch_ops import CutMix, Mixup
from unreel.views.presets import view_plan

NAMES = ("simclr", "moco", "byol")


@pytest.mark.parametrize("name", NAMES)
def test_images_with_the_views_of_the_object_aware_paper_by_default(name: str) -> None:
    found = standard(name)
    wanted = {"clip_frames": 1, "rho": 2, "interval": "independent", "preset": "occon", "size": 224, "consistent": True}
    assert {key: found[key] for key in wanted} == wanted
    assert found.keys() >= {"crop_area_min", "jitter_p", "hidden_dim"}
    assert not found.keys() & {"num_views", "in_dim", "encoder", "head"}
    with torch.device("meta"):
        method = create_method(name, create_encoder("r3d_tiny"))
    assert method.views == view_plan("occon")
    assert repr(method.sampler) == repr(ClipSetSampler(2, clip_frames=1))


@pytest.mark.parametrize("name", NAMES)
def test_trains_on_images_and_on_rho_clips(name: str) -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    image = create_method(name, encoder, seed=0, size=16, hidden_dim=16, out_dim=8)
    assert encoder.input_spec.num_frames == 1
    assert torch.isfinite(image(image_batch()).loss)
    method = tiny(name, rho=4, stride=2, interval="decreasing", preset="release", blur_p=0.0)
    assert repr(method.sampler) == repr(ClipSetSampler(4, clip_frames=4, stride=2, interval="decreasing"))
    assert method.views == view_plan("release", size=16, num_views=4, blur_p=0.0)
    assert method.encoder.input_spec.stride_frames == 2
    drawn = [sample(method, video(0, i), i, Key(i)) for i in range(3)]
    loss = method(method.views.apply(collate(drawn))).loss
    loss.backward()
    assert torch.isfinite(loss)
    with pytest.raises(UsageError, match="rho"):
        tiny(name, rho=0)


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_check_C12_the_target_moves_before_the_loss_of_the_same_step(name: str) -> None:
    """Before the forward, parameters only, as a copy at first; the optimiser leaves it."""
    method = tiny(name, momentum=0.5)
    seen: list[torch.Tensor] = []
    weight, copy = method.encoder.conv1.weight, method.teacher.parts[0].conv1.weight
    before = weight.detach().clone()
    assert torch.equal(weight, copy)
    method.teacher.register_forward_pre_hook(lambda *_: seen.append(copy.detach().clone()))
    optimizer = build_optimizer(method, lr=0.5, momentum=0.0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in method.teacher.parameters()}
    fit(method, [views_batch(2)], optimizer, total_steps=1, device="cpu")
    after = weight.detach().clone()
    assert not torch.equal(after, before)
    assert all(torch.equal(s, before) for s in seen)  # in step 0 both were one
    assert torch.equal(copy, before)
    seen.clear()
    running = method.teacher.parts[0].bn1.running_mean.clone()
    fit(method, [views_batch(2)], build_optimizer(method, lr=0.5, momentum=0.0), total_steps=1, device="cpu")
    assert seen
    assert all(torch.equal(s, before.mul(0.5).add(after, alpha=0.5)) for s in seen)
    assert not torch.equal(running, method.teacher.parts[0].bn1.running_mean)  # training mode, statistics of its own


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_mix_is_one_setting(name: str) -> None:
    assert tiny(name).batch_operations == ()
    assert tiny(name, mix="mixup", mix_alpha=0.4).batch_operations == (Mixup(0.4, views=(0,)),)
    assert tiny(name, mix="cutmix").batch_operations == (CutMix(1.0, views=(0,)),)
    with pytest.raises(UsageError, match="did you mean 'mixup'"):
        tiny(name, mix="mixpu")
    both = CutMix()(Mixup()(views_batch(2), Key(0)), Key(1))
    with pytest.raises(UsageError, match="mixed twice"):
        tiny(name)(both)


def test_parts_given_in_python_are_the_methods() -> None:
    clips = ClipSetSampler(3, clip_frames=2, stride=5)
    views = view_plan("crop_only", size=12, num_views=3)
    head = unit_linear(6, out_dim=5)
    moco = MoCo(OneLayer(), clips=clips, views=views, head=head, queue_size=4)
    assert moco.sampler is clips
    assert moco.views is views
    assert moco.head is head
    spec = moco.encoder.input_spec
    assert (spec.num_frames, spec.stride_frames, spec.size_px) == (2, 5, 12)
    assert (moco.queue.shape, moco.temperature) == ((4, 5), 0.07)  # of one linear layer, as in v1
    assert torch.isfinite(moco(views_batch(3, frames=2)).loss)
    byol = BYOL(OneLayer(), clips=clips, views=views, head=head)
    assert [m.weight.shape for m in byol.predictor.modules() if isinstance(m, nn.Linear)] == [(5, 5), (5, 5)]
    assert torch.isfinite(byol(views_batch(3, frames=2)).loss)
    own = nn.Linear(5, 5)
    assert BYOL(OneLayer(), head=head, predictor=own).predictor is own
    swav = SwAV(OneLayer(), clips=clips, views=view_plan("crop_only", size=12, num_views=4), head=head)
    assert (swav.num_large, swav.sampler.num_views, swav.prototypes.in_features) == (3, 4, 5)
    with pytest.raises(UsageError, match="needs a linear layer"):
        MoCo(OneLayer(), head=nn.Identity())


# --- half precision ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mixed"),
    [*((name, False) for name in ("simclr", "moco", "byol", "swav", "pirl")), ("moco", True), ("byol", True)],
)
def test_a_loss_under_autocast_is_computed_in_float32(name: str, mixed: bool) -> None:
    """Division by τ or ε, softmax, cross-entropy and assignment; only the networks run in half precision."""
    options = {"queue_size": 12, "queue_epoch": 0} if name == "swav" else {}
    found: dict[bool, torch.Tensor] = {}
    for half in (False, True):
        method = tiny(name, **options)
        batch = batch_of_views(method, 8)
        batch = Mixup()(batch, Key("mix")) if mixed else batch
        if name == "swav":
            method.queue.copy_(torch.nn.functional.normalize(torch.randn(2, 12, 8, generator=Key("q").torch()), dim=2))
            method.queue_filled.fill_(12)
            scored: list[torch.dtype] = []
            method.prototypes.register_forward_hook(lambda *a, seen=scored: seen.append(a[2].dtype))
        method.on_step_begin(StepsDone(5, 10))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = method(batch)
        assert output.loss.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in output.logs.values())
        assert name != "swav" or (len(scored) == 6 and set(scored) == {torch.float32})  # four views, two queues
        output.loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
        found[half] = output.loss.detach()
    assert torch.isfinite(found[True])
    # BYOL's lies in [−4, 4] and may be near 0.
    torch.testing.assert_close(found[True], found[False], rtol=2e-2, atol=2e-2)


# --- two processes, resume --------------------------------------------------------------------------------------


OPTIONS: dict[str, dict[str, Any]] = {
    "moco": {"momentum": 0.7, "rho": 3},  # K = 20 is no multiple of a step's keys
    "byol": {"momentum": 0.7},
    "simclr": {"rho": 3},
}


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("name", "mixed", "accumulate"),
    [("moco", False, 2), ("moco", True, 1), ("byol", False, 1), ("byol", True, 2), ("simclr", False, 1)],
)
def test_two_processes_are_one(ddp: Any, name: str, mixed: bool, accumulate: int) -> None:
    truth = fit_on_share(name, OPTIONS[name], accumulate, mixed=mixed)
    for rank in ddp.run(fit_on_share, name, OPTIONS[name], accumulate, "", 4, mixed):
        check_same_state(truth, rank, atol=1e-8)
        assert rank["last"]["loss"] == pytest.approx(truth["last"]["loss"], rel=1e-5)
    if name == "moco":
        keys = 8 * 2 * accumulate * 4  # rows, views that are keys, batches a step, steps
        assert int(truth["state"]["queue_pointer"]) == keys % 20


@pytest.mark.parametrize("name", NAMES)
def test_stop_and_resume_is_equal_to_the_bit(name: str, tmp_path: Path) -> None:
    """Queue, pointer and teacher included."""
    mixed = name != "simclr"
    whole = fit_on_share(name, OPTIONS[name], mixed=mixed)
    fit_on_share(name, OPTIONS[name], 1, str(tmp_path), 2, mixed)
    resumed = fit_on_share(name, OPTIONS[name], 1, str(tmp_path), mixed=mixed)
    assert resumed["resumed_from"] == 2
    assert {n.split(".")[0] for n in whole["state"]} >= {"encoder", "head"}
    check_same_state(whole, resumed)
    if name == "moco":
        fresh = {"queue", "queue_pointer", "teacher.parts.0.conv1.weight"}
        assert fresh <= whole["state"].keys()
