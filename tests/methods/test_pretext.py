"""What the tasks on clips share (docs/methods/vcop.md and others)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.methods import numbered
from tests.methods.numbered import NAMES, TileMeans, batch_of, tiny
from tests.methods.test_cvrl import gradients_of, worst
from unreel.core import distributed
from unreel.core.errors import UsageError
from unreel.data.batch import Batch, View
from unreel.data.contracts import min_frames
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest
from unreel.methods import Method, PretextTask, create_method
from unreel.nn import create_encoder
from unreel.train.backend import distribute


@pytest.mark.parametrize("name", NAMES)
def test_a_net_that_sees_frame_numbers_solves_the_task(name: str) -> None:
    """The label follows from the frames: what is learned on some draws holds on others."""
    options = {"rotation": {"copies": "one"}}.get(name, {})
    method = tiny(name, TileMeans(), dropout=0.0, **options)
    train, test = (batch_of(method, rows, seed=seed) for seed, rows in enumerate((240, 80)))
    optimizer = torch.optim.Adam(method.parameters(), lr=0.03)
    for _ in range(120):
        optimizer.zero_grad()
        method(train).loss.backward()
        optimizer.step()
    assert method.eval()(test).logs["accuracy"] > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_balanced_and_random_scores_are_at_chance(name: str) -> None:
    method = tiny(name)
    assert isinstance(method, PretextTask)
    batch = batch_of(method, 240)
    _, target = method.question(batch)
    classes = {"vcop": 6, "opn": 12, "shuffle_learn": 2, "arrow_of_time": 2, "pace": 4, "rotation": 4, "vcp": 5}[name]
    shares = torch.bincount(target.flatten(), minlength=classes) / target.numel()
    wanted = torch.tensor([0.75, 0.25]) if name == "shuffle_learn" else torch.full((classes,), 1 / classes)
    assert len(shares) == classes
    # 5 standard deviations
    assert ((shares - wanted).abs() < 5 * (wanted * (1 - wanted) / 240).sqrt()).all()


def test_per_call_is_a_call_for_each_position() -> None:
    """docs/methods/tcgl.md, Batch norm: in the papers' code each position of the tuple is a batch of its own."""
    outputs = {}
    for grouping in ("per_call", "joint", "loop"):
        method = tiny("vcop", bn_grouping="joint" if grouping == "loop" else grouping).double()
        assert isinstance(method, PretextTask)
        clips, _ = method.question(rows(batch_of(method, 6), slice(None)))
        if grouping == "loop":
            found = torch.stack([method.encoder(method.encoder.prepare(c)) for c in clips], 1)
        else:
            found = method.encode(clips)
        outputs[grouping] = found, dict(method.encoder.named_buffers())
    torch.testing.assert_close(outputs["per_call"], outputs["loop"])
    assert (outputs["joint"][0] - outputs["loop"][0]).abs().max() > 1e-3
    with pytest.raises(UsageError, match="did you mean 'per_call'"):
        tiny("vcop", bn_grouping="per_cal")


@pytest.mark.parametrize("name", NAMES)
def test_check_17_all_frames_of_a_clip_share_one_crop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A static video stays static under a random crop, and under everything a method does to it."""
    method = tiny(name, size=6)
    assert isinstance(method, PretextTask)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 255, (1, 8, 8, 3), dtype=torch.uint8, generator=generator)
    monkeypatch.setattr(numbered, "video", lambda frames: noise.expand(frames, -1, -1, -1))
    clips, _ = method.question(batch_of(method, 12))
    for clip in clips:
        assert torch.equal(clip, clip[:, :, :1].expand_as(clip))
    assert len(torch.unique(torch.cat([c[:, 0, 0, 0, 0] for c in clips]))) > 3  # and the crops do differ


def test_validation_sees_the_centre_and_no_draw() -> None:
    method = tiny("vcop", size=6, flip_p=0.5, jitter_p=0.5, gray_p=1.0)
    assert [op.name for op in method.validation_views.pipelines[0]] == ["center_crop", "gray"]  # type: ignore[union-attr]
    assert [op.name for op in method.views.pipelines[0]] == ["random_crop", "flip", "jitter", "gray"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_the_encoder_was_fed(name: str) -> None:
    spec = tiny(name).encoder.input_spec
    assert (spec.num_frames, spec.stride_frames, spec.size_px) == (4, 1, 8)


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("vcop", 64),
        ("opn", 88),
        ("shuffle_learn", 80),
        ("arrow_of_time", 16),
        ("pace", 1),
        ("rotation", 1),
        ("vcp", 88),
    ],
)
def test_defaults_are_the_papers(name: str, frames: int) -> None:
    with torch.device("meta"):
        method = create_method(name, create_encoder("c3d"))
    assert min_frames(method.sampler) == frames
    assert (method.encoder.input_spec.num_frames, method.encoder.input_spec.size_px) == (16, 112)
    assert method.views.pipelines[0][0].size == (128, 171)  # type: ignore[attr-defined]


def test_dropout_acts_in_training_only_and_follows_key_and_sample() -> None:
    method = tiny("vcop")
    batch = batch_of(method, 6)
    assert method(batch).loss != method(batch_of(method, 6, seed=1)).loss
    nodrop = tiny("vcop", dropout=0.0)
    assert method.train()(batch).loss != nodrop(batch).loss
    assert torch.equal(tiny("vcop").eval()(batch).loss, tiny("vcop", dropout=0.0).eval()(batch).loss)


# --- processes and workers --------------------------------------------------------------------------------------


def rows(batch: Batch, part: slice) -> Batch:
    views = tuple(View(v.data[part].double(), v.times_s[part]) for v in batch.views)
    targets = {name: t[part] for name, t in batch.targets.items()}
    return Batch(views, targets, batch.sample_id[part], batch.group[part], batch.row[part], key=batch.key)


def global_batch(name: str) -> tuple[Method, Batch]:
    options: dict[str, Any] = {
        "rotation": {"copies": "one"},
        "pace": {"contrast_weight": 0.1, "num_clips": 2, "out_dim": 4},
    }.get(name, {})
    method = tiny(name, **{"dropout": 0.5, **options}).double().train()
    noise = torch.Generator().manual_seed(0)
    batch = rows(batch_of(method, 8), slice(None))
    views = tuple(View(v.data + torch.rand(v.data.shape, generator=noise), v.times_s) for v in batch.views)
    return method, Batch(views, batch.targets, batch.sample_id, batch.group, batch.row, key=batch.key)


def on_ranks(name: str) -> dict[str, Any]:
    rank, world = distributed.rank(), distributed.world_size()
    method, batch = global_batch(name)
    count = len(batch) // world
    module = distribute(method, torch.device("cpu"), synchronise_norm=True, unused=False)
    output = module(rows(batch, slice(count * rank, count * (rank + 1))))
    output.loss.backward()
    return {
        "loss": float(distributed.all_reduce_mean(output.loss.detach())),
        "gradients": {n: g.numpy() for n, g in gradients_of(module).items()},
        "buffers": {n: b.double().numpy() for n, b in method.named_buffers()},
    }


@pytest.mark.ddp
@pytest.mark.parametrize("name", ["vcop", "pace", "vcp"])
def test_two_processes_give_the_gradients_of_one_with_dropout(ddp: Any, name: str) -> None:
    method, batch = global_batch(name)
    output = method(batch)
    output.loss.backward()
    truth = gradients_of(method)
    size = max(float(g.abs().max()) for g in truth.values())
    ranks = ddp.run(on_ranks, name)
    for rank in ranks:
        assert rank["loss"] == pytest.approx(float(output.loss.detach()), abs=1e-10)
        assert worst(rank["gradients"], truth) < 1e-10 * size
        assert worst(rank["buffers"], {n: b.double() for n, b in method.named_buffers()}) < 1e-10


def losses(manifest: Manifest, workers: int) -> tuple[list[Batch], list[float]]:
    method = tiny("vcop", size=16, resize=(18, 20), jitter_p=0.8)
    dataset = ClipDataset(manifest, method.sampler, method.views, seed=4)
    loader = ClipLoader(dataset, 4, seed=4, workers=workers)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    batches, found = [], []
    for batch in loader.iterate(0, 3):
        output = method(method.views.apply(batch))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        batches.append(batch)
        found.append(float(output.loss.detach()))
    return batches, found


def test_check_19_same_batches_and_losses_with_0_or_2_workers(tiny_world: Any) -> None:
    manifest = Manifest.open(tiny_world)
    (here, one), (there, two) = losses(manifest, 0), losses(manifest, 2)
    assert one == two
    for a, b in zip(here, there, strict=True):
        assert all(torch.equal(x.data, y.data) for x, y in zip(a.views, b.views, strict=True))
        assert torch.equal(a.targets["order"], b.targets["order"])
