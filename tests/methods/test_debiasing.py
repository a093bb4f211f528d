"""One line for any method (docs/methods/object_views.md): what the switches change, end to end on files, and resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ddp_pool import ProcessPool
from tests.methods.siamese_clips import tiny, views_batch
from unreel.core.distributed import rank, world_size
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.core.settings import Layer
from unreel.data.batch import Aligned, Batch, View
from unreel.data.manifest import Manifest
from unreel.data.sidecars import annotate
from unreel.data.synthetic import ActionWorld
from unreel.methods import Method, create_method
from unreel.methods.debiasing import ObjectViews
from unreel.nn import create_encoder
from unreel.recipes.build import prepare
from unreel.recipes.schema import resolve
from unreel.train import fit
from unreel.views.bg_mixup import BGMixup, FinishViews
from unreel.views.operations import ObjectCrop
from unreel.views.plan import ViewPlan


def cvrl(**options: Any) -> Method:
    with torch.device("meta"):
        return create_method("cvrl", create_encoder("r3d_tiny"), **options)


# ------------------------------------------------------------------------------------------------------------ switches


@pytest.mark.parametrize("name", ["cvrl", "moco", "tcgl", "rotation"])
def test_every_method_with_view_options_has_the_switches(name: str) -> None:
    rest = {"encoder": {"name": "r3d_tiny"}, "train": {"batch_size": 4}}
    settings = resolve([Layer("test", {"method": {"name": name}, **rest})])
    found = settings.get("objects", settings["method"])
    assert (found["object_crop"], found["bg_mixup"]) == ("none", "none")
    paper = {"bg_probability": 0.4, "bg_threshold": 0.2, "bg_memory": 50, "bg_variant": "paper", "bg_mask": "soft"}
    assert {key: found[key] for key in paper} == paper
    with torch.device("meta"):
        plain, made = (
            create_method(name, create_encoder("r3d_tiny"), **options)
            for options in ({}, {"object_crop": "cam", "bg_mixup": "cam"})
        )
    assert (plain.sidecars, plain.aligned, [*plain.batch_operations]) == ((), (), [])
    assert (made.sidecars, made.aligned) == (("boxes",), ("masks",))
    (mixup,) = made.batch_operations
    assert isinstance(mixup, BGMixup)
    assert isinstance(plain.views, ViewPlan)
    assert isinstance(made.views, ViewPlan)
    assert "object" in made.views.shared
    assert all(isinstance(pipeline[0], ObjectCrop) for pipeline in made.views.pipelines)
    assert tuple(p[1:] for p in made.views.pipelines) == plain.views.pipelines  # the rest is as it was


def test_options_arrive() -> None:
    method = cvrl(object_crop="gt", object_pick="per_view", object_margin=0.1, object_area_min=0.02)
    assert method.sidecars == ("file.boxes",)
    assert isinstance(method.views, ViewPlan)
    assert method.views.shared == frozenset()
    assert method.views.pipelines[0][0] == ObjectCrop("file.boxes", "uniform", margin=0.1, min_area=0.02)
    largest = cvrl(object_crop="cam", object_pick="largest")
    assert isinstance(largest.views, ViewPlan)
    assert largest.views.pipelines[0][0] == ObjectCrop("boxes", "largest")
    options = {"bg_probability": 0.7, "bg_threshold": 0.3, "bg_memory": 7, "bg_variant": "official", "bg_mask": "hard"}
    more = {"bg_views": "all", "bg_fill": "in_fill", "bg_motion": "static", "bg_block": 8}
    (mixup,) = cvrl(bg_mixup="gt", **options, **more).batch_operations
    assert isinstance(mixup, BGMixup)
    got = (mixup.probability, mixup.threshold, mixup.memory, mixup.variant, mixup.mask_mode)
    assert got == tuple(options.values())
    assert (mixup.views, mixup.fill, mixup.motion, mixup.block) == (None, "in_fill", "static", 8)
    mixed = tiny("moco", bg_mixup="cam", mix="mixup")
    assert [type(op).__name__ for op in mixed.batch_operations] == ["BGMixup", "Mixup"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"object_crop": "auto"}, "object_crop must be one of .*, got 'auto'"),
        ({"bg_mixup": "mask"}, "bg_mixup must be one of .*, got 'mask'"),
        ({"object_pick": "first"}, "object_pick must be one of .*, got 'first'"),
        ({"bg_views": "second"}, "bg_views must be one of .*, got 'second'"),
        ({"bg_stage": "late"}, "bg_stage must be one of .*, got 'late'"),
        ({"bg_mixup": "gt", "bg_probability": 2.0}, "probability must be"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cvrl(**options)


def test_views_of_another_kind_are_refused() -> None:
    method = cvrl()
    method.views = object()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="need views of a ViewPlan"):
        ObjectViews(object_crop="gt").change(method)
    ObjectViews().change(method)  # off: nothing is asked


# ----------------------------------------------------------------------------------------------------- state, processes


def masked_batch(seed: int, rows: int = 8) -> Batch:
    batch = views_batch(2, rows, frames=1, seed=seed)
    first = batch.views[0]
    mask = torch.zeros(rows, 1, 16, 16)
    for i in range(rows):
        mask[i, :, i % 5 : 9, 2 : 8 + i % 4] = 0.9
    views = (View(first.data, first.times_s, aligned={"mask": Aligned("soft_mask", mask)}), batch.views[1])
    ids = torch.arange(rows) + rows * seed
    return Batch(views, {}, ids, ids, ids)


def trained(folder: Path | None, stop_after: int | None = None) -> Method:
    method: Method = tiny("moco", clip_frames=1, bg_mixup="cam", bg_memory=3)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    batches = [masked_batch(i) for i in range(6)]
    fit(method, batches, optimizer, total_steps=6, checkpoint=folder, stop_after=stop_after)
    return method


def test_stopped_and_resumed_is_bit_equal_memory_included(tmp_path: Path) -> None:
    whole = trained(None)
    trained(tmp_path, stop_after=3)
    resumed = trained(tmp_path)
    state = resumed.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in whole.state_dict().items())
    left, right = (method.batch_operations[0].state_dict() for method in (whole, resumed))
    assert len(left["view0.block0.images"]) == 3
    assert all(torch.equal(v, right[k]) for k, v in left.items())
    # The memory is what makes the difference: without it the second half is another run.
    forgetful: Method = tiny("moco", clip_frames=1, bg_mixup="cam", bg_memory=0)
    optimizer = torch.optim.SGD(forgetful.parameters(), lr=0.1, momentum=0.9)
    fit(forgetful, [masked_batch(i) for i in range(6)], optimizer, total_steps=6)
    assert not torch.equal(forgetful.state_dict()["queue"], state["queue"])


def mix_slices(rows: int, options: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Three steps on this process's share of global batches: clips, partners, and the memory after."""
    operation, clips, partners = BGMixup(**options), [], []
    local = rows // world_size()
    mine = slice(rank() * local, (rank() + 1) * local)
    for step in range(3):
        batch = masked_batch(step, rows)
        masks = Aligned("soft_mask", batch.views[0].aligned["mask"].data[mine])
        view = View(batch.views[0].data[mine], batch.views[0].times_s[mine], aligned={"mask": masks})
        ids = batch.sample_id[mine]
        out = operation(Batch((view,), {}, ids, ids, ids), Key(0, step))
        clips.append(out.views[0].data)
        partners.append(out.targets["bg_mixup.partner"])
    return clips, partners, operation.state_dict()


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (8, {"block": 4, "memory": 2, "probability": 0.7}),  # whole blocks: nothing is sent
        (32, {}),  # a small recipe's batch and the default block of 64, which lies across both processes
        (12, {"block": 4, "memory": 3}),  # the second of three blocks does
    ],
)
def test_two_processes_equal_one(ddp: ProcessPool, rows: int, options: dict[str, Any]) -> None:
    """Clips, partners and memories; each process keeps the memories of the blocks that it has rows of."""
    clips, partners, memory = mix_slices(rows, options)
    parts = ddp.run(mix_slices, rows, options)
    for step in range(3):
        assert torch.equal(torch.cat([part[0][step] for part in parts]), clips[step])
        assert torch.equal(torch.cat([part[1][step] for part in parts]), partners[step])
    assert any(bool((p >= rows // 2).any()) for p in parts[0][1]) == bool(rows // 2 % options.get("block", 64))
    joined = {**parts[0][2], **parts[1][2]}
    assert joined.keys() == memory.keys()
    for part in parts:
        assert all(torch.equal(value, memory[name]) for name, value in part[2].items())


# ---------------------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    ActionWorld(3, 6, 2, size_px=32, num_frames=8, audio_rate_hz=0).write(folder, truth=True)
    return folder


def prepared(truth: Path, method: str = "cvrl", **options: Any) -> Any:
    small = {"clip_frames": 4, "stride": 1, "size": 32, "hidden_dim": 8, "out_dim": 4}
    train = {"batch_size": 6, "workers": 0, "epochs": 1, "warmup_epochs": 0}
    call = {**small, **options, "train": train, "encoder": {"name": "r3d_tiny"}}
    return prepare(method, truth, call=call)


def test_ground_truth_of_the_built_in_world_end_to_end(truth: Path) -> None:
    run = prepared(truth, object_crop="gt", bg_mixup="gt", bg_probability=1.0, bg_stage="before")
    batch = next(iter(run.loader.iterate(0, 1)))
    boxes = [view.params["object.box"][:, 0] for view in batch.views]
    assert all(bool((box[:, 2:] - box[:, :2] < 32).any()) for box in boxes)
    applied = run.method.views.apply(batch)
    mask = applied.views[0].aligned["mask"].data
    assert mask.shape == (6, 4, 32, 32)
    assert 0 < float(mask.mean()) < 1
    mixup, finish = run.method.batch_operations
    assert isinstance(finish, FinishViews)
    mixed = mixup(applied, Key(0))
    assert int((mixed.targets["bg_mixup.partner"] >= 0).sum()) > 2
    inside = (mask == 1)[:, None].expand_as(applied.views[0].data)
    assert torch.equal(mixed.views[0].data[inside], applied.views[0].data[inside])  # the object is itself
    finished = finish(mixed, Key(0))
    assert torch.isfinite(run.method(finished).loss)
    assert not torch.equal(finished.views[1].data, applied.views[1].data)  # colours come after


def test_supervised_learning_has_the_switches(truth: Path) -> None:
    """Crops of the box in training and validation; mixed backgrounds leave the label."""
    sections: Any = {
        "method": {"name": "supervised", "label": "motion"},
        "clips": {"clip_frames": 2, "stride": 1},
        "views": {"size": 32},
        "objects": {"object_crop": "gt", "bg_mixup": "gt", "bg_probability": 1.0},
        "train": {"batch_size": 6, "workers": 0, "epochs": 1, "warmup_epochs": 0, "validation": 0, "select": "last"},
        "encoder": {"name": "r3d_tiny"},
    }
    run = prepare("supervised", truth, overrides=[Layer("test", sections)])
    assert (run.method.sidecars, run.method.aligned) == (("file.boxes",), ("file.mask",))
    for plan in (run.method.views, run.method.validation_views):
        assert isinstance(plan, ViewPlan)
        assert plan.pipelines[0][0] == ObjectCrop("file.boxes")
    batch = run.method.views.apply(next(iter(run.loader.iterate(0, 1))))
    mixed = run.method.batch_operations[0](batch, Key(0))
    assert int((mixed.targets["bg_mixup.partner"] >= 0).sum()) > 2
    assert torch.equal(mixed.targets["motion"], batch.targets["motion"])
    assert torch.isfinite(run.method(mixed).loss)


def test_the_crops_show_the_object(truth: Path) -> None:
    """The truth's boxes hold the object: its mask fills more of the views than of the frames."""
    shares = {}
    for crop in ("none", "gt"):
        batch = next(iter(prepared(truth, object_crop=crop, bg_mixup="gt").loader.iterate(0, 1)))
        shares[crop] = float(torch.stack([v.aligned["mask"].data.mean() for v in batch.views]).mean())
    assert shares["gt"] > 1.5 * shares["none"]


def test_missing_tables_stop_at_the_start_and_name_the_command(truth: Path) -> None:
    for options, command in (({"object_crop": "cam"}, "boxes"), ({"bg_mixup": "cam"}, "masks")):
        with pytest.raises(DataError, match=f"unreel data annotate {command} {truth} --encoder RUN"):
            prepared(truth, **options)


class Middle:
    """Boxes as `unreel data annotate boxes` leaves them, without an encoder."""

    name, version = "boxes", 1

    def __init__(self, right: float) -> None:
        self.settings = {"right": right}

    def compute(self, path: Path) -> dict[str, object]:
        return {"boxes": [[0.25, 0.25, self.settings["right"], 0.75]]}


def test_the_table_is_part_of_what_a_run_is(truth: Path) -> None:
    rows = Manifest.open(truth)
    table = annotate(rows, Middle(0.75), out=truth / "sidecars").table
    try:
        run = prepared(truth, "moco", object_crop="cam", queue_size=12)
        assert run.settings.to_plain()["data"]["boxes"] == table.stem
        batch = next(iter(run.loader.iterate(0, 1)))
        assert batch.views[0].params["object.box"][0].tolist() == [[8, 8, 24, 24]]
        other = annotate(rows, Middle(1.0), out=truth / "sidecars").table
        with pytest.raises(UsageError, match=r"(?s)2 tables of boxes .* --data\.boxes"):
            prepared(truth, object_crop="cam")
        other.unlink()
    finally:
        table.unlink()
