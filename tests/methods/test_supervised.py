"""Learning from labels as a method: the loss, its targets, what is frozen, and a run on files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import unreel
from tests.methods.clips import random_batch, rows_of
from tests.methods.siamese_clips import check_same_state
from unreel.core import distributed
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.data.contracts import FrameSize
from unreel.data.dataset import label_codes
from unreel.data.manifest import Manifest, Row
from unreel.methods import Supervised, create_method
from unreel.nn import create_encoder
from unreel.nn.weights import read_card
from unreel.recipes.build import prepare
from unreel.train import Checkpoints, build_optimizer, fit

CLASSES = ("a", "b", "c")


def tiny_supervised(**options: Any) -> Supervised:
    settings = {"classes": CLASSES, "clip_frames": 4, "stride": 1, "size": 16, **options}
    method = create_method("supervised", create_encoder("r3d_tiny", seed=0), seed=0, **settings)
    assert isinstance(method, Supervised)
    return method


def labelled_batch(seed: int = 0) -> Batch:
    batch = random_batch(seed=seed)
    return replace(batch, views=batch.views[:1], targets={"label": torch.tensor([2, 0, 1, 2])})


def test_the_loss_is_the_cross_entropy_of_the_label() -> None:
    method, batch = tiny_supervised().eval(), labelled_batch()
    with torch.no_grad():
        scores = method.head.linear(method.encoder(batch.views[0].data))
        found = method(batch)
    target = batch.targets["label"]
    slow = -torch.log_softmax(scores, 1)[torch.arange(4), target].mean()
    assert found.loss.item() == pytest.approx(slow.item(), rel=1e-6)
    assert found.logs["accuracy"].item() == (scores.argmax(1) == target).float().mean().item()
    smooth = tiny_supervised(label_smoothing=0.3).eval()
    with torch.no_grad():
        expected = functional.cross_entropy(scores, target, label_smoothing=0.3)
        assert smooth(batch).loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_dropout_is_keyed_and_off_in_evaluation() -> None:
    method, batch = tiny_supervised(dropout=0.5), labelled_batch()
    method.encoder.eval()
    with torch.no_grad():
        first, again = method(batch).loss, method(batch).loss
        assert torch.equal(first, again)
        assert not torch.equal(first, method(replace(batch, key=Key("another"))).loss)
        method.eval()
        assert torch.equal(method(batch).loss, tiny_supervised().eval()(batch).loss)


def moved(method: Supervised) -> set[str]:
    """Which of kernels, norms, statistics and head a few steps change."""
    before = {n: t.clone() for n, t in method.state_dict().items()}
    method.train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        method(labelled_batch()).loss.backward()
        optimizer.step()
    norms = {n for n, m in method.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    kinds = set()
    for name, value in method.state_dict().items():
        if torch.equal(value, before[name]):
            continue
        if name.startswith("head"):
            kinds.add("head")
        elif name.rpartition(".")[0] in norms:
            kinds.add("statistics" if "running" in name or "num_batches" in name else "norms")
        else:
            kinds.add("kernels")
    return kinds


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("none", {"kernels", "norms", "statistics", "head"}),
        ("norms", {"kernels", "head"}),
        ("trunk", {"head"}),
    ],
)
def test_what_is_frozen_stays(freeze: str, expected: set[str]) -> None:
    assert moved(tiny_supervised(freeze=freeze)) == expected


def fit_on_share(folder: str = "", stop: int = 4) -> dict[str, Any]:
    """State after a fit of 4 steps, with dropout, on this rank's share of global batches of 8, in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        count = 8 // distributed.world_size()
        rows = slice(count * distributed.rank(), count * (distributed.rank() + 1))
        method = tiny_supervised(dropout=0.5, label_smoothing=0.1).double()
        target = torch.arange(8) % 3
        batches = [
            replace(rows_of(batch, rows), views=rows_of(batch, rows).views[:1], targets={"label": target[rows]})
            for batch in (random_batch(8, seed=s, dtype=torch.float64) for s in range(3))
        ]
        result = fit(
            method,
            batches,
            build_optimizer(method, lr=0.05),
            total_steps=4,
            device="cpu",
            checkpoint=Checkpoints(folder) if folder else None,
            stop_after=stop,
        )
        state = {n: v.numpy() for n, v in method.state_dict().items()}
        return {"state": state, "last": result.last, "resumed_from": result.resumed_from}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.ddp
def test_two_processes_are_one(ddp: Any) -> None:
    truth = fit_on_share()
    for rank in ddp.run(fit_on_share):
        check_same_state(truth, rank, atol=1e-9)
        assert rank["last"]["loss"] == pytest.approx(truth["last"]["loss"], rel=1e-5)


def test_stop_and_resume_is_equal_to_the_bit(tmp_path: Path) -> None:
    whole = fit_on_share()
    fit_on_share(str(tmp_path), 2)
    resumed = fit_on_share(str(tmp_path))
    assert resumed["resumed_from"] == 2
    check_same_state(whole, resumed)


def test_a_frozen_encoder_is_thawed() -> None:
    encoder = create_encoder("r3d_tiny", seed=0).requires_grad_(False)
    assert all(p.requires_grad for p in Supervised(encoder, classes=CLASSES).parameters())


def test_clips_are_as_the_encoder_was_trained_unless_said() -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    encoder.input_spec = replace(encoder.input_spec, num_frames=6, stride_frames=3, size_px=40, dct_highpass=1)
    method: Any = Supervised(encoder, classes=CLASSES)
    assert (method.sampler.clip_frames, method.sampler.stride) == (6, 3)
    assert encoder.input_spec.dct_highpass == 1
    params = method.views.draw(Key(1), 0, FrameSize(64, 90, 6), {})
    assert params["geometry.size"].tolist() == [[40, 40]]
    still = [method.validation_views.draw(Key(k), 0, FrameSize(64, 90, 6), {}) for k in (1, 2)]
    assert torch.equal(still[0]["geometry.box"], still[1]["geometry.box"])
    # 40 of round(40 * 128 / 112) = 46: the centre, as wide as the frame is high.
    x1, y1, x2, y2 = still[0]["geometry.box"][0].tolist()
    assert (x1 + x2) / 2 == pytest.approx(45, abs=1)
    assert y2 - y1 == pytest.approx(64 * 40 / 46)
    create_method("supervised", encoder, classes=CLASSES, size=24, clip_frames=2, stride=1)
    assert (encoder.input_spec.num_frames, encoder.input_spec.size_px) == (2, 24)


def test_wrong_values_are_refused() -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    for options, message in (
        ({"classes": ()}, "two or more"),
        ({"classes": ("a", "a")}, "two or more"),
        ({"classes": CLASSES, "crop": "plase"}, "did you mean 'place'"),
        ({"classes": CLASSES, "freeze": "trunc"}, "did you mean 'trunk'"),
        ({"classes": CLASSES, "size": 112, "resize": (100, 171)}, "does not fit"),
    ):
        with pytest.raises(UsageError, match=message):
            create_method("supervised", encoder, **options)


def rows(order: list[int]) -> Manifest:
    return Manifest("/", tuple(Row(f"{i}.mp4", labels={"label": "cab"[i % 3]}) for i in order))


def test_codes_follow_the_names_and_not_the_rows() -> None:
    assert label_codes(rows([0, 1, 2, 3]), "label", CLASSES) == [2, 0, 1, 2]
    assert label_codes(rows([3, 1, 0]), "label", CLASSES) == [2, 0, 2]
    with pytest.raises(DataError, match=r"0\.mp4: its label 'label' is 'c', and 1 other rows"):
        label_codes(rows([0, 1, 2, 3]), "label", ("a", "b"))
    with pytest.raises(DataError, match="no column"):
        label_codes(rows([0]), "kind", CLASSES)


SMALL: dict[str, Any] = {
    **{"method.label": "motion", "clips.clip_frames": 4, "clips.stride": 1, "views.size": 16},
    "train": {"batch_size": 4, "steps": 3, "workers": 0, "device": "cpu", "validation": 4, "warmup_epochs": 0},
}


def test_a_run_takes_its_classes_from_the_data(tiny_world: Path, tmp_path: Path) -> None:
    run = unreel.pretrain("supervised", tiny_world, out=tmp_path / "run", **SMALL)
    manifest = Manifest.open(tiny_world).select(split="train")
    classes = sorted(set(manifest.labels("motion")))
    assert run.config["method"]["classes"] == classes
    card = read_card(run.path)["pretraining"]
    assert card["settings"]["method"]["classes"] == classes
    assert card["selected"]["by"] == "val_loss"
    assert {"val_loss", "val_accuracy"} <= run.metrics()[-1].keys()
    assert "Accuracy (validation)" in (run.path / "report.html").read_text()
    again = prepare(None, tiny_world, recipe=run.path)  # the classes are read back from config.yaml
    assert again.method.classes == tuple(classes)  # type: ignore[union-attr]


def test_rows_without_a_label_are_left_out(tiny_world: Path) -> None:
    manifest = Manifest.open(tiny_world)
    bare = [
        replace(r, labels={k: v for k, v in r.labels.items() if k != "motion" or i % 4}) for i, r in enumerate(manifest)
    ]
    found = prepare("supervised", replace(manifest, rows=tuple(bare)), call=SMALL)
    assert found.validation is not None
    assert len(found.manifest) + len(found.validation.dataset) == 12
    assert all(found.manifest.labels("motion"))
    batch = next(iter(found.loader.iterate(0, 1)))
    names = [found.manifest.labels("motion")[i] for i in batch.row.tolist()]
    assert [found.method.classes[c] for c in batch.targets["motion"].tolist()] == names  # type: ignore[union-attr]
