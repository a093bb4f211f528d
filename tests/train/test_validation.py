"""Validation while training: the measure itself, what it decides, and that stopping changes nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.methods.clips import random_batch, tiny_cvrl
from tests.train.toys import Toy, toy_batch, toy_batches
from unreel.core import distributed
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import uniforms
from unreel.data.batch import Batch, View
from unreel.methods import LossOutput
from unreel.nn.weights import read_card
from unreel.train import Monitor, build_optimizer, fit
from unreel.train.backend import Backend
from unreel.train.monitor import read_lines
from unreel.train.options import Keeping, Training
from unreel.train.run import pretrain
from unreel.train.schedule import Plateau
from unreel.train.validation import Validation, measure

HELD_OUT = [toy_batch(100), toy_batch(101), toy_batch(102, rows=2)]
CPU = Backend("cpu")


class Plain(Toy):
    """Without dropout or memory, so that two processes can equal one; logs an accuracy and a keyed draw."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder.net[3].p = 0.0
        self.batch_operations = ()

    def forward(self, batch: Batch) -> LossOutput:
        loss, logs = super().forward(batch)
        drawn = uniforms(batch.key.child("noise"), batch.sample_id).mean()
        return LossOutput(loss, {**logs, "accuracy": (loss.detach() < 0.05).float(), "drawn": drawn})


def watched(**options: Any) -> tuple[Plateau, Validation]:
    plateau = Plateau(0.3, patience=1, factor=0.5, min_lr=0.004)
    return plateau, Validation(HELD_OUT, every=2, plateau=plateau, **{"select": "val_loss", **options})


def run(method: Toy, plateau: Plateau, validation: Validation, **options: Any) -> Any:
    optimizer = options.pop("optimizer", None) or build_optimizer(method, lr=0.3)
    options = {"total_steps": 21, "schedule": plateau, "device": "cpu", "seed": 3} | options
    return fit(method, toy_batches(), optimizer, validation=validation, **options)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def records(folder: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["val_loss"]) for r in read_lines(folder / "metrics.jsonl") if "val_loss" in r]


def test_the_measure_weighs_videos_equally_and_changes_nothing() -> None:
    method = Plain()
    method.encoder.net[2].eval()  # a part that a method keeps in evaluation
    before = {n: t.clone() for n, t in method.state_dict().items()}
    modes = [m.training for m in method.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = measure(method, HELD_OUT, backend=CPU, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in method.modules()] == modes
    assert equal(before, method.state_dict())
    method.eval()
    rows = [b for batch in HELD_OUT for b in singles(method.views.apply(batch))]
    with torch.no_grad():
        slow = float(np.mean([float(method(row).loss) for row in rows]))
    assert found["val_loss"] == pytest.approx(slow, rel=1e-5)
    assert found == measure(method, HELD_OUT, backend=CPU, seed=1)  # draws in forward too
    assert found["val_drawn"] != measure(method, HELD_OUT, backend=CPU, seed=2)["val_drawn"]


def singles(batch: Batch) -> list[Batch]:
    (view,) = batch.views
    parts = [slice(i, i + 1) for i in range(len(batch))]
    return [replace(batch, views=(View(view.data[p], view.times_s[p]),), sample_id=batch.sample_id[p]) for p in parts]


def test_the_methods_own_validation_views_are_applied() -> None:
    class Dark:
        num_views = 1

        def apply(self, batch: Batch) -> Batch:
            found = Toy().views.apply(batch)
            return replace(found, views=tuple(View(v.data * 0, v.times_s) for v in found.views))

    method = Plain()
    measure(method, HELD_OUT, backend=CPU)
    assert max(method.seen) > 0
    method.seen.clear()
    method.validation_views = Dark()  # type: ignore[assignment]
    measure(method, HELD_OUT, backend=CPU)
    assert max(method.seen) == 0
    measure(method, HELD_OUT, backend=CPU, draw=4)  # fresh draws are those of training
    assert max(method.seen) > 0


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("truth")
    method, (plateau, validation) = Toy(), watched()
    optimizer = build_optimizer(method, lr=0.3)
    result = run(
        method, plateau, validation, optimizer=optimizer, checkpoint=folder / "c", monitor=Monitor(folder, log_every=3)
    )
    return {
        "method": method.state_dict(),
        "optimizer": optimizer.state_dict(),
        "validation": validation.state_dict(),
        "records": records(folder),
        "last": torch.load(folder / "c" / "step-000000021.pt", weights_only=True),
        "result": result,
    }


def test_measured_every_so_many_steps_and_at_the_end(truth: dict[str, Any]) -> None:
    assert [step for step, _ in truth["records"]] == [*range(2, 21, 2), 21]


def test_the_method_is_left_with_the_best_and_the_checkpoint_has_the_last(truth: dict[str, Any]) -> None:
    best_step, best = min(truth["records"], key=lambda r: r[1])
    state = truth["validation"]
    assert (state["best_step"], state["best_value"]) == (best_step, best)
    assert best_step < 21
    assert equal(truth["method"], state["best"])
    assert not equal(truth["last"]["method"], state["best"])
    left = Toy()
    left.load_state_dict(truth["method"])
    assert measure(left, HELD_OUT, backend=CPU, seed=3)["val_loss"] == best
    assert truth["last"]["validation"]["best_step"] == best_step


def test_the_plateau_lowers_the_rate(truth: dict[str, Any]) -> None:
    assert truth["validation"]["plateau"]["lr"] < 0.3


@pytest.mark.parametrize("at", [1, 8, 13])
def test_stopped_and_resumed_gives_equal_bits(at: int, tmp_path: Path, truth: dict[str, Any]) -> None:
    first = run(Toy(), *watched(), checkpoint=tmp_path, stop_after=at, monitor=Monitor(tmp_path, log_every=3))
    assert (first.step, first.completed) == (at, False)
    method, (plateau, validation) = Toy(), watched()
    optimizer = build_optimizer(method, lr=0.3)
    second = run(
        method, plateau, validation, checkpoint=tmp_path, optimizer=optimizer, monitor=Monitor(tmp_path, log_every=3)
    )
    assert second.resumed_from == at
    assert equal(method.state_dict(), truth["method"])
    assert records(tmp_path) == truth["records"]
    mine, theirs = validation.state_dict(), truth["validation"]
    assert equal(mine.pop("best"), theirs["best"])
    assert mine == {k: v for k, v in theirs.items() if k != "best"}
    last = torch.load(tmp_path / "step-000000021.pt", weights_only=True)
    assert equal(last["method"], truth["last"]["method"])
    again, (plateau, validation) = Toy(), watched()
    run(again, plateau, validation, checkpoint=tmp_path)  # a finished run leaves its selection once more
    assert equal(again.state_dict(), truth["method"])


def test_other_validation_is_another_run(tmp_path: Path) -> None:
    run(Toy(), *watched(), checkpoint=tmp_path, stop_after=2)
    with pytest.raises(UsageError, match=r"validation.select was val_loss, is last"):
        run(Toy(), *watched(select="last"), checkpoint=tmp_path)


def test_high_accuracies_and_low_losses_win_and_the_first_of_equals() -> None:
    values = iter([0.5, 0.7, math.nan, 0.7, 0.6])

    class Scripted(Plain):
        def forward(self, batch: Batch) -> LossOutput:
            value = torch.tensor(self.value)
            return LossOutput(super().forward(batch).loss, {"accuracy": value, "error": value})

    for select, step in (("val_accuracy", 2), ("val_error", 1)):
        values = iter([0.5, 0.7, math.nan, 0.7, 0.5])
        validation = Validation(HELD_OUT, every=1, select=select)
        method = Scripted()
        for at in range(1, 6):
            method.value = next(values)
            validation.run(method, at, backend=CPU)
        assert validation.best_step == step


def test_wrong_names_are_refused_at_the_first_step() -> None:
    with pytest.raises(UsageError, match="val_"):
        Validation(HELD_OUT, every=1, select="accuracy")
    method = Plain()
    with pytest.raises(UsageError, match=r"no value 'val_acuracy'; it has val_accuracy"):
        run(method, *watched(select="val_acuracy"))
    assert len(method.seen) == 1
    with pytest.raises(UsageError, match="at least one batch"):
        Validation([], every=1)
    with pytest.raises(DataError, match="no validation video"):
        measure(method, Nothing(), backend=CPU)


class Nothing:
    """Validation batches of which no video can be read."""

    def __len__(self) -> int:
        return 2

    def iterate(self, numbers: Any, *, draw: int = -1) -> Any:
        return iter([None] * len(numbers))


@pytest.mark.parametrize("seed", range(4))
def test_the_plateau_decides_as_torchs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.abs(np.cumsum(generator.normal(-0.02, 0.1, 80)) + 3)
    values[generator.integers(0, 80, 3)] = np.nan
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.3, patience=4, min_lr=0.01)
    plateau = Plateau(1.0, patience=4 * 7, factor=0.3, min_lr=0.01)
    for epoch, value in enumerate(values, 1):
        oracle.step(float(value))
        plateau.observe(float(value), epoch * 7)
        assert plateau(epoch * 7) == pytest.approx(optimizer.param_groups[0]["lr"])
    assert plateau.lr < 0.5


def small_run(folder: Path, *, stop_after: int | None = None, held_out: Any = (9,), **options: Any) -> Any:
    method = tiny_cvrl()
    training = Training(
        epochs=2,
        plateau_patience=0.5,
        plateau_factor=0.5,
        validate_every=0.5,
        **{"schedule": "plateau", "select": "val_contrast_accuracy", **options},
    )
    return pretrain(
        method,
        [random_batch(seed=s) for s in range(4)],
        build_optimizer(method, lr=0.05),
        out=folder,
        training=training,
        device="cpu",
        keeping=Keeping(log_every=3, stop_after=stop_after),
        validate=[random_batch(seed=s) for s in held_out] or None,
    )


def test_a_run_stops_and_goes_on_with_plateau_and_selection(tmp_path: Path) -> None:
    whole = small_run(tmp_path / "a")
    small_run(tmp_path / "b", stop_after=5)
    parted = small_run(tmp_path / "b")
    a, b = (r.load_encoder().state_dict() for r in (whole, parted))
    assert equal(a, b)
    assert records(whole.path) == records(parted.path)
    assert [step for step, _ in records(whole.path)] == [2, 4, 6, 8]
    selected = read_card(parted.encoder_path)["pretraining"]["selected"]
    assert selected["by"] == "val_contrast_accuracy"
    assert selected == read_card(whole.encoder_path)["pretraining"]["selected"]


def test_what_needs_held_out_videos_says_so(tmp_path: Path) -> None:
    for options in ({"select": "last"}, {"schedule": "constant"}):
        with pytest.raises(UsageError, match="needs held-out videos"):
            small_run(tmp_path, held_out=(), **options)
    assert not list(tmp_path.iterdir())


def on_ranks(folder: str, stop_after: int | None = None) -> dict[str, Any]:
    """A run whose batches are shared by the processes, with everything that validation decides."""
    number, count = distributed.rank(), distributed.world_size()
    rows = slice(number * 4 // count, (number + 1) * 4 // count)
    batches = []
    for batch in toy_batches():
        (view,) = batch.views
        part = View(view.data[rows], view.times_s[rows])
        batches.append(Batch((part,), {}, batch.sample_id[rows], batch.group[rows], batch.row[rows]))
    method, (plateau, validation) = Plain(), watched()
    fit(
        method,
        batches,
        build_optimizer(method, lr=0.3),
        total_steps=21,
        schedule=plateau,
        device="cpu",
        seed=3,
        validation=validation,
        checkpoint=folder,
        stop_after=stop_after,
    )
    state = validation.state_dict()
    state.pop("best")
    return {"state": state, "weights": {n: t.clone() for n, t in method.state_dict().items() if t.is_floating_point()}}


@pytest.mark.ddp
def test_two_processes_decide_as_one_and_resume(ddp: Any, tmp_path: Path) -> None:
    alone = on_ranks(str(tmp_path / "one"))
    ddp.run(on_ranks, str(tmp_path / "two"), 7)
    first, second = ddp.run(on_ranks, str(tmp_path / "two"))
    assert first["state"] == second["state"]
    assert first["state"]["best_step"] == alone["state"]["best_step"]
    assert first["state"]["plateau"]["lr"] == alone["state"]["plateau"]["lr"] < 0.3
    assert first["state"]["plateau"]["since"] == alone["state"]["plateau"]["since"]
    assert first["state"]["best_value"] == pytest.approx(alone["state"]["best_value"], rel=1e-4)
    for name, value in alone["weights"].items():
        if name not in ("queue",):  # what a process has seen is its own
            assert torch.allclose(first["weights"][name], value, atol=1e-5), name
            assert torch.equal(first["weights"][name], second["weights"][name]), name
