from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.train.toys import Memory, Seekable, Toy, ToyViews, toy_batch, toy_batches
from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch, Fault
from unreel.methods import LossOutput, StepsDone
from unreel.train import Checkpoints, DivergedError, Monitor, build_optimizer, fit, trainer
from unreel.train.backend import Backend
from unreel.train.monitor import read_lines
from unreel.train.schedule import warmup_cosine
from unreel.train.trainer import _Agreement


def schedule(step: int) -> float:
    return warmup_cosine(step, 0.05, 20, 4)


def train(method: Toy, loader: Any = None, **options: Any) -> Any:
    optimizer = options.pop("optimizer", None) or build_optimizer(method, lr=0.05)
    options = {"total_steps": 20, "schedule": schedule, "device": "cpu", "seed": 3} | options
    return fit(method, loader if loader is not None else toy_batches(), optimizer, **options)


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [n for n in a if not torch.equal(a[n], b[n])]


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    """The state after 20 steps without a stop."""
    method = Toy()
    optimizer = build_optimizer(method, lr=0.05)
    result = train(method, optimizer=optimizer)
    assert result.completed
    return {"method": method.state_dict(), "optimizer": optimizer.state_dict(), "calls": method.calls}


def test_works_without_configuration_and_learns() -> None:
    method = Toy()
    start = fit(method, toy_batches(), torch.optim.SGD(method.parameters(), lr=0.0), device="cpu")
    end = fit(method, toy_batches(), torch.optim.SGD(method.parameters(), lr=0.05), total_steps=60, device="cpu")
    assert start.total_steps == 6  # one pass
    assert start.last == {} or start.last["step"] == 6
    assert end.last["loss"] < 0.2 * start.last["loss"]


def test_hooks_come_in_order(truth: dict[str, Any]) -> None:
    assert truth["calls"][:6] == ["begin 0", "gradients", "end 1 True", "begin 1", "gradients", "end 2 True"]
    assert truth["calls"][-1] == "end 20 True"


def test_float_views_are_taken_as_they_are() -> None:
    method, other = Toy(), Toy()
    train(method, [toy_batch(s) for s in range(6)], total_steps=3)
    train(other, [toy_batch(s, floating=True) for s in range(6)], total_steps=3)
    assert not differing(method.state_dict(), other.state_dict())


def test_two_calls_give_equal_bits_and_leave_the_callers_generator(truth: dict[str, Any]) -> None:
    method = Toy()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    train(method)
    assert torch.equal(torch.get_rng_state(), before)
    assert not differing(method.state_dict(), truth["method"])
    other = Toy()
    train(other, seed=4)
    assert differing(other.state_dict(), truth["method"])  # dropout and the batch operation read the seed


@pytest.mark.parametrize("at", [1, 7, 19])
def test_stopped_and_resumed_gives_equal_bits(at: int, tmp_path: Path, truth: dict[str, Any]) -> None:
    first = train(Toy(), checkpoint=tmp_path, stop_after=at)
    assert (first.step, first.completed) == (at, False)
    method = Toy()
    for parameter in method.parameters():
        nn.init.zeros_(parameter)  # whatever it starts with is replaced
    optimizer = build_optimizer(method, lr=0.05)
    second = train(method, checkpoint=tmp_path, optimizer=optimizer)
    assert (second.step, second.completed, second.resumed_from) == (20, True, at)
    assert not differing(method.state_dict(), truth["method"])
    buffers = zip(optimizer.state_dict()["state"].values(), truth["optimizer"]["state"].values(), strict=True)
    assert all(torch.equal(a["momentum_buffer"], b["momentum_buffer"]) for a, b in buffers)


def test_a_wish_to_save_is_granted_once(tmp_path: Path) -> None:
    class Clock(Checkpoints):
        """Says once, in the third step, that it is time."""

        asked = 0

        def overdue(self) -> bool:
            self.asked += 1
            return self.asked == 3

    train(Toy(), checkpoint=Clock(tmp_path, keep=20))
    assert [p.name for p in Checkpoints(tmp_path).paths()] == ["step-000000003.pt", "step-000000020.pt"]


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    train(Toy(), checkpoint=tmp_path)
    before = [p.stat().st_mtime_ns for p in Checkpoints(tmp_path).paths()]
    method = Toy()
    again = train(method, checkpoint=tmp_path)
    assert (again.step, again.resumed_from, method.calls) == (20, 20, [])
    assert [p.stat().st_mtime_ns for p in Checkpoints(tmp_path).paths()] == before


def in_new_process(folder: Path, mode: str, seed: int) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("resume_script.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, str(script), str(folder), mode, str(seed)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_sigterm_saves_and_a_new_process_ends_with_equal_bits(tmp_path: Path, truth: dict[str, Any]) -> None:
    process = in_new_process(tmp_path, "signal", 1)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.stdout.close()
    (saved,) = Checkpoints(tmp_path / "checkpoints").paths()
    assert saved.name == "step-000000005.pt"
    assert not (tmp_path / "final.pt").exists()
    method = Toy()
    result = train(method, checkpoint=tmp_path / "checkpoints")  # here the new process is this one
    assert result.resumed_from == 5
    assert not differing(method.state_dict(), truth["method"])


def test_resumed_in_a_new_process_gives_equal_bits(tmp_path: Path, truth: dict[str, Any]) -> None:
    train(Toy(), checkpoint=tmp_path / "checkpoints", stop_after=11)
    process = in_new_process(tmp_path, "quiet", 2)
    assert process.wait(60) == 0
    assert process.stdout is not None
    process.stdout.close()
    final = torch.load(tmp_path / "final.pt", weights_only=True)
    assert not differing(final["method"], truth["method"])


class Pressing(Toy):
    """Sends itself a signal in the middle of step 3."""

    def forward(self, batch: Batch) -> LossOutput:
        if len(self.seen) == 3:
            signal.raise_signal(signal.SIGINT)
        return super().forward(batch)


def test_ctrl_c_finishes_the_step_and_saves(tmp_path: Path) -> None:
    method = Pressing()
    # A suite started in the background inherits "ignored", which fit rightly leaves alone.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(method, checkpoint=tmp_path)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert method.calls[-1] == "end 4 True"
    assert [p.name for p in Checkpoints(tmp_path).paths()] == ["step-000000004.pt"]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train(Pressing(), checkpoint=tmp_path).completed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_accumulation_is_the_mean_of_the_parts() -> None:
    """Without batch norm and dropout, two batches of 4 accumulated are one batch of 8."""
    results = []
    for rows, accumulate in ((8, 1), (4, 2)):
        method = Toy()
        method.batch_operations = ()
        method.encoder.net = nn.Sequential(*list(method.encoder.net)[:1])  # type: ignore[arg-type]
        both = toy_batch(0, 8)
        views = both.views[0]
        parts = [
            Batch(
                (type(views)(views.data[i : i + rows], views.times_s[i : i + rows]),),
                {},
                both.sample_id[i : i + rows],
                both.group[i : i + rows],
                both.row[i : i + rows],
            )
            for i in range(0, 8, rows)
        ]
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
        result = train(method, parts, optimizer=optimizer, accumulate=accumulate, total_steps=3, schedule=None)
        assert result.step == 3
        results.append((method.state_dict(), result.last["loss"]))
    for name, value in results[0][0].items():
        if name != "queue":
            torch.testing.assert_close(value, results[1][0][name], rtol=1e-5, atol=1e-7)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)


def test_accumulated_steps_go_on_at_their_batch_and_end_at_the_last(tmp_path: Path) -> None:
    whole, parted = Toy(), Toy()
    options = {"accumulate": 2, "total_steps": 8, "schedule": None}
    assert train(whole, stop_after=99, **options).last["epoch"] == 2  # the eighth step reads batches 14 and 15 of six
    train(Toy(), checkpoint=tmp_path, stop_after=5, **options)
    assert train(parted, checkpoint=tmp_path, **options).step == 8
    assert not differing(whole.state_dict(), parted.state_dict())


def test_length_of_a_pass_counts_accumulated_batches() -> None:
    method = Toy()
    assert train(method, total_steps=None, schedule=None, accumulate=3).total_steps == 2


class Broken(Toy):
    def __init__(self, loss_at: int | None = None, gradients_at: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.loss_at, self.gradients_at, self.count = loss_at, gradients_at, 0

    def forward(self, batch: Batch) -> LossOutput:
        output = super().forward(batch)
        factor = float("nan") if self.count == self.loss_at else 1.0
        return LossOutput(output.loss * factor, output.logs)

    def on_gradients(self) -> None:
        super().on_gradients()
        if self.count in self.gradients_at:
            assert self.head.weight.grad is not None
            self.head.weight.grad.fill_(float("inf"))

    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        super().on_step_end(progress, applied)
        self.count += 1


def test_a_loss_that_is_not_finite_stops_the_run_and_reaches_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"loss is nan at step 5 of 20.*lower the learning rate"):
        train(Broken(loss_at=5), checkpoint=Checkpoints(tmp_path, every_steps=2))
    assert [p.name for p in Checkpoints(tmp_path).paths()] == ["step-000000002.pt", "step-000000004.pt"]


class Event:
    """A CUDA event on a machine without CUDA, where what was recorded is there at once."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


class Late(_Agreement):
    """Reads one step late, as on CUDA."""

    def __init__(self, device: torch.device, total_steps: int) -> None:
        super().__init__(torch.device("cuda"), total_steps)


def test_on_cuda_a_step_is_read_when_the_next_was_sent_or_before_anything_leans_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: dict[str, Any]
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    late = Late(torch.device("cpu"), 20)
    late.send(0, torch.tensor(1.0), [1.0, 0.0])
    assert (late.stopping, late.saving) == (False, False)
    late.send(1, torch.tensor(1.0), [0.0, 1.0])
    assert (late.stopping, late.saving) == (True, False)
    late.settle()
    assert (late.stopping, late.saving) == (True, True)
    late.send(2, torch.tensor(float("nan")), [0.0, 0.0])
    with pytest.raises(DivergedError, match="loss is nan at step 2 of 20"):
        late.send(3, torch.tensor(1.0), [0.0, 0.0])
    monkeypatch.setattr(trainer, "_Agreement", Late)
    method = Toy()
    train(method)
    assert not differing(method.state_dict(), truth["method"])
    for at in (3, 19):  # the step before a checkpoint, and the last
        with pytest.raises(DivergedError, match=rf"loss is nan at step {at} of 20"):
            train(Broken(loss_at=at), checkpoint=Checkpoints(tmp_path / str(at), every_steps=at + 1))
        assert not Checkpoints(tmp_path / str(at)).paths()


@pytest.mark.parametrize("at", [3, 19])
def test_weights_that_are_not_finite_reach_no_checkpoint(at: int, tmp_path: Path) -> None:
    """A finite loss with a gradient that is not: step ``at`` breaks the weights, the next loss would come too late."""
    with pytest.raises(DivergedError, match=rf"weights are not finite after {at + 1} of 20 steps.*max_grad_norm"):
        train(Broken(gradients_at=(at,)), checkpoint=Checkpoints(tmp_path, every_steps=2))
    state = torch.load(Checkpoints(tmp_path).paths()[-1], weights_only=True)
    assert state["step"] == at - 1
    assert all(torch.isfinite(v).all() for v in state["method"].values())


def test_a_step_whose_gradients_are_not_finite_is_skipped(tmp_path: Path) -> None:
    method = Broken(gradients_at=(2, 3))
    result = train(method, total_steps=6, max_grad_norm=1.0)
    assert result.skipped == 2
    assert [c for c in method.calls if "False" in c] == ["end 3 False", "end 4 False"]
    assert all(torch.isfinite(p).all() for p in method.parameters())
    train(Broken(gradients_at=(2, 3)), checkpoint=tmp_path, total_steps=6, max_grad_norm=1.0, stop_after=5)
    assert train(Broken(), checkpoint=tmp_path, total_steps=6, max_grad_norm=1.0).skipped == 2
    with pytest.raises(DivergedError, match="in a row"):
        train(Broken(gradients_at=tuple(range(40))), total_steps=40, max_grad_norm=1.0)


def test_gradients_are_clipped_to_the_norm() -> None:
    class Watching(Toy):
        def on_step_end(self, progress: StepsDone, applied: bool) -> None:
            total = sum(float(p.grad.square().sum()) for p in self.parameters() if p.grad is not None)
            norms.append(total**0.5)

    norms: list[float] = []
    train(Watching(), max_grad_norm=1e-3)
    assert max(norms) == pytest.approx(1e-3, rel=1e-4)


def test_half_precision_runs_and_keeps_weights_in_float32() -> None:
    method = Toy()
    result = train(method, device=Backend("cpu", "bfloat16", "channels_last"))
    assert result.completed
    assert all(p.dtype == torch.float32 for p in method.parameters())
    weight = method.encoder.net[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_schedule_sets_every_group_by_its_scale() -> None:
    method = Toy()
    groups = [{"params": list(method.encoder.parameters())}, {"params": method.head.parameters(), "lr_scale": 0.5}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    train(method, optimizer=optimizer, total_steps=3)
    assert [g["lr"] for g in optimizer.param_groups] == [schedule(2), 0.5 * schedule(2)]


def test_check_24_frozen_weights_and_statistics_do_not_move() -> None:
    class Frozen(Toy):
        """A linear probe: the encoder is in inference mode and has no gradients."""

        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self.encoder.eval()
            return self

    method = Frozen()
    method.encoder.requires_grad_(False)
    before = {n: v.clone() for n, v in method.state_dict().items()}
    train(method, optimizer=build_optimizer(method, lr=0.05, weight_decay=0.1))
    moved = [n for n in before if not torch.equal(before[n], method.state_dict()[n])]
    assert moved
    assert not [n for n in moved if n.startswith("encoder.")]


def test_a_seekable_loader_is_not_read_from_the_beginning(tmp_path: Path, truth: dict[str, Any]) -> None:
    loader = Seekable()
    loader.quarantine.add("bad.mp4")
    train(Toy(), loader, checkpoint=tmp_path, stop_after=8)
    assert loader.starts == [0]
    method, loader = Toy(), Seekable()
    train(method, loader, checkpoint=tmp_path)
    assert loader.starts == [8]
    assert loader.quarantine == {"bad.mp4"}
    assert not differing(method.state_dict(), truth["method"])


class Lengthless:
    """Can be started again, but does not say how long it is."""

    def __iter__(self) -> Any:
        return iter(toy_batches())


def test_a_loader_without_length_goes_on_in_the_right_pass(tmp_path: Path, truth: dict[str, Any]) -> None:
    train(Toy(), Lengthless(), checkpoint=tmp_path, stop_after=14)  # two passes of six, and two batches
    method = Toy()
    assert train(method, Lengthless(), checkpoint=tmp_path).resumed_from == 14
    assert not differing(method.state_dict(), truth["method"])


def test_loaders_that_cannot_serve_are_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        train(Toy(), [])
    with pytest.raises(DataError, match="generator"):
        train(Toy(), (b for b in toy_batches(3)))
    short = Seekable()
    short.iterate = lambda start_step=0, total_steps=None: iter(short.batches)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="ended after 6 of 20"):
        train(Toy(), short)
    with pytest.raises(UsageError, match="total_steps"):
        train(Toy(), (b for b in toy_batches(3)), total_steps=None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate"),
        ({"device": "cuda:7"}, "there is no device 'cuda:7' here"),
    ],
)
def test_wrong_calls_say_why(options: dict[str, Any], message: str) -> None:
    if "device" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=message):
        train(Toy(), **options)


def test_another_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    train(Toy(), checkpoint=tmp_path, stop_after=2)
    with pytest.raises(UsageError, match=r"loop.seed was 3, is 4"):
        train(Toy(), checkpoint=tmp_path, seed=4)
    method = Toy()
    other = build_optimizer(method, lr=0.05, momentum=0.5)
    with pytest.raises(UsageError, match=r"optimizer.momentum was 0.9, is 0.5"):
        train(method, checkpoint=tmp_path, optimizer=other)
    method = Toy()
    other = build_optimizer(method, lr=0.05, weight_decay=0.5)
    with pytest.raises(UsageError, match=r"optimizer.group 0.weight_decay was 1e-06, is 0.5"):
        train(method, checkpoint=tmp_path, optimizer=other)
    method = Toy()
    method.head.requires_grad_(False)  # the old run's momentum does not fit these groups
    with pytest.raises(UsageError, match=r"optimizer.group 0.n was 2, is 1"):
        train(method, checkpoint=tmp_path, optimizer=build_optimizer(method, lr=0.05))
    with pytest.raises(UsageError, match=r"settings.data.folder was unset, is b"):
        train(Toy(), checkpoint=tmp_path, settings={"data": {"folder": "b"}})


def test_what_is_logged_now_and_then_is_averaged_over_the_steps_that_logged_it() -> None:
    class Sparse(Toy):
        def forward(self, batch: Batch) -> LossOutput:
            output = super().forward(batch)
            now = {"pace": torch.tensor(6.0)} if len(self.seen) % 5 == 1 else {}
            return LossOutput(output.loss, {**output.logs, **now})

    assert train(Sparse(), monitor=Monitor(log_every=10)).last["pace"] == 6.0


def test_the_probe_leaves_every_part_in_its_mode() -> None:
    class Begun(Toy):
        def on_step_begin(self, progress: StepsDone) -> None:
            super().on_step_begin(progress)
            if progress.step == 0:
                self.encoder.net[1].eval()  # a frozen norm

    method = Begun()
    train(method, total_steps=4, monitor=Monitor(probe=lambda encoder: {"knn": 0.0}, probe_every=2))
    assert method.encoder.training
    assert not method.encoder.net[1].training


def test_records_and_faults_are_written_and_rewound(tmp_path: Path) -> None:
    batches = toy_batches()
    fault = Fault("a.mp4", "truncated", "ends early", "b.mp4", 3)
    batches[3] = Batch(*(getattr(batches[3], n) for n in ("views", "targets", "sample_id", "group", "row")), (fault,))
    echoed: list[float] = []

    def run(**options: Any) -> Any:
        monitor = Monitor(
            tmp_path,
            log_every=2,
            echo=lambda record: echoed.append(record["step"]),
            probe=lambda encoder: {"knn": float(encoder.training)},
            probe_every=3,
        )
        return train(Toy(), batches, checkpoint=tmp_path / "checkpoints", monitor=monitor, **options)

    run(stop_after=5)
    with (tmp_path / "metrics.jsonl").open("a") as stream:  # a killed run wrote on after its last checkpoint
        stream.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    with (tmp_path / "faults.jsonl").open("a") as stream:
        stream.write('{"path": "late.mp4", "at_step": 9}\n')
    run(total_steps=20)
    records = list(read_lines(tmp_path / "metrics.jsonl"))
    steps = [r["step"] for r in records]
    assert steps == sorted(set(range(2, 21, 2)) | set(range(3, 21, 3)))
    assert echoed == steps
    full = records[0]
    assert {"epoch", "lr", "loss", "output", "data_wait", "clips_per_s", "s_per_step", "faults"} <= full.keys()
    assert 0 <= full["data_wait"] <= 1
    assert [r["probe.knn"] for r in records if "probe.knn" in r] == [0.0] * 6
    assert records[-1]["epoch"] == 3
    faults = list(read_lines(tmp_path / "faults.jsonl"))
    assert [f["at_step"] for f in faults] == [4, 10, 16]
    assert faults[0]["substitute"] == "b.mp4"
    assert records[-1]["faults"] == 3


def test_the_views_of_the_method_are_applied_once_per_batch() -> None:
    class Counting(ToyViews):
        calls = 0

        def apply(self, batch: Batch) -> Batch:
            self.calls += 1
            assert batch.views[0].data.dtype == torch.uint8
            return super().apply(batch)

    method = Toy()
    method.views = views = Counting()  # type: ignore[assignment]
    train(method, total_steps=4, accumulate=2)
    assert views.calls == 8


def test_batch_operations_draw_from_a_key_of_their_own_at_every_batch() -> None:
    class Recording(Memory):
        def __init__(self) -> None:
            super().__init__()
            self.keys: list[Key] = []

        def __call__(self, batch: Batch, key: Key) -> Batch:
            self.keys.append(key)
            return super().__call__(batch, key)

    method, other = Toy(), Toy()
    method.batch_operations = one, two = Recording(), Recording()
    train(method, total_steps=3, accumulate=2, schedule=None)
    assert len(set(one.keys) | set(two.keys)) == 12
    other.batch_operations = (again := Recording(),)
    train(other, total_steps=3, accumulate=2, schedule=None)
    assert again.keys == one.keys  # adding an operation changes no other's draw


def test_float16_skips_steps_until_its_scale_fits() -> None:
    class Loud(Toy):
        """Gradients that overflow float32 at the scaler's first scale, 2^16, and not at the next."""

        def forward(self, batch: Batch) -> LossOutput:
            output = super().forward(batch)
            factor = 2.0**112  # 2^16 · 2^112 = 2^128 is the first power of two beyond float32
            return LossOutput(
                output.loss.detach() + (self.head.bias.sum() - self.head.bias.detach().sum()) * factor, {}
            )

    method = Loud()
    optimizer = torch.optim.SGD(method.parameters(), lr=2.0**-120)
    result = train(method, device=Backend("cpu", "float16"), total_steps=4, optimizer=optimizer, schedule=None)
    assert result.skipped == 1
    assert method.calls[2::3] == ["end 1 False", "end 2 True", "end 3 True", "end 4 True"]
    quiet = Toy()
    assert train(quiet, device=Backend("cpu", "float16"), total_steps=8).skipped < 4
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in quiet.parameters())
