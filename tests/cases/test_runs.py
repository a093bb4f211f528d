"""Runs that are stopped, suspended, killed or started twice: no file is blamed, no step lost, nothing written over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from unreel.cli.main import main
from unreel.core.errors import DataError
from unreel.core.files import BusyError, check_folder, claimed
from unreel.data import workers as workers_module
from unreel.data.workers import WorkerDiedError, WorkerPool, WorkerStalledError, isolate, run_guarded
from unreel.media import ReadTimeoutError
from unreel.media.source import Budget
from unreel.nn import create_encoder, save_encoder
from unreel.tasks.scores import Report, kept_reports
from unreel.train.monitor import Monitor
from unreel.train.run import Run

SMALL = [
    *("--encoder.name", "r3d_tiny", "--size", "32", "--clip_frames", "4", "--hidden-dim", "16"),
    *("--train.steps", "4", "--train.warmup_epochs=0", "--train.batch_size", "4", "--train.workers", "2"),
    *("--train.device", "cpu", "--train.log_every", "1"),
]


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    """As a shell starts a program: a suite in the background inherits some as ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def weights(run: Run) -> dict[str, torch.Tensor]:
    state = torch.load(run.checkpoints[-1], map_location="cpu", weights_only=True)
    assert state["quarantine"] == []
    return {**load_file(run.encoder_path), **{f"method.{name}": value for name, value in state["method"].items()}}


def test_signals_at_chosen_steps_blame_nobody_and_change_no_bit(
    tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run, stopped by three signals to it and its workers, beside one that nothing stopped."""
    monkeypatch.setattr("unreel.report.html.write_report", lambda *_: None)  # slow to draw, and tested elsewhere
    arguments = ["pretrain", str(tiny_world), *SMALL, "--quiet", "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    plan = {1: signal.SIGTERM, 2: signal.SIGINT, 3: signal.SIGUSR1}
    log = Monitor.log

    def log_and_signal(self: Monitor, values: Any) -> None:
        log(self, values)
        number = plan.get(int(values["step"]))
        if number is not None:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, number)
            signal.raise_signal(number)

    monkeypatch.setattr(Monitor, "log", log_and_signal)
    run = Run(tmp_path / "stopped")
    capsys.readouterr()
    for step, number in plan.items():
        assert main([*arguments, str(run.path)]) == 128 + number
        err = capsys.readouterr().err
        assert f"stopped by {number.name} after {step} of 4 steps: saved in {run.path / 'checkpoints'}" in err
        assert "the same command goes on" in err
        assert run.checkpoints[-1].name == f"step-{step:09d}.pt"
        names = os.listdir(run.path)
        assert not [name for name in names if name.startswith((".", "encoder", "faults"))]
    assert main([*arguments, str(run.path)]) == 0
    assert run.faults() == []
    assert [record["step"] for record in run.metrics()] == list(range(1, 5))
    whole, stopped = weights(Run(tmp_path / "whole")), weights(run)
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


# ------------------------------------------------------------------------------------------------------- workers

OUTSIDE = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGSYS, signal.SIGXCPU]
OWN = [signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP]


def _ending(how: Callable[[], None], once: Path) -> Callable[[int, Any], int]:
    """A job whose worker ends while it has row 3 in hand, the first time."""

    def job(task: int, context: Any) -> int:
        context.publish(task)
        if task == 3 and not once.exists():
            once.touch()
            how()
        return task

    return job


def _kill_by(number: int) -> Callable[[], None]:
    def how() -> None:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    return how


def _guarded(job: Callable[[int, Any], int], **options: Any) -> dict[str, str]:
    """What is blamed for the trouble; all tasks are done."""
    blamed: dict[str, str] = {}
    options |= {"workers": 1, "quarantine": blamed, "timeout_s": 30}
    tasks = run_guarded(job, lambda done: range(done, 6), lambda row: f"{row}.mp4", **options)
    assert list(tasks) == list(range(6))
    return blamed


@pytest.mark.parametrize("number", OUTSIDE)
def test_a_worker_that_was_ended_is_replaced(number: signal.Signals, tmp_path: Path) -> None:
    assert _guarded(_ending(_kill_by(number), tmp_path / "once")) == {}


@pytest.mark.parametrize("number", OWN)
def test_a_worker_that_crashed_points_at_its_file(number: signal.Signals, tmp_path: Path) -> None:
    blamed = _guarded(_ending(_kill_by(number), tmp_path / "once"))
    assert blamed.keys() == {"3.mp4"}
    assert number.name in blamed["3.mp4"]


def test_a_library_that_exits_points_at_its_file(tmp_path: Path) -> None:
    assert _guarded(_ending(lambda: os._exit(1), tmp_path / "once")).keys() == {"3.mp4"}


def test_workers_that_are_ended_again_and_again_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "_MOST_ENDED", 2)

    def job(task: int, context: Any) -> int:
        context.publish(task)
        _kill_by(signal.SIGTERM)()
        return task

    with pytest.raises(DataError, match=r"ended by SIGTERM.*3 workers so far"):
        _guarded(job)


def _signal_me(task: int, context: Any) -> int:
    context.publish(task)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    return os.getpid()


def test_files_that_crash_workers_again_and_again_stop_the_run() -> None:
    def job(task: int, context: Any) -> int:
        if f"{task}.mp4" not in context.quarantine:
            context.publish(task)
            os._exit(1)
        return task

    assert _guarded(job).keys() == {f"{row}.mp4" for row in range(6)}
    with pytest.raises(DataError, match=r"crashed 3 times; .*files: 0\.mp4, 1\.mp4, 2\.mp4$"):
        _guarded(job, most=2)


def test_workers_leave_a_groups_signals_to_the_main_process() -> None:
    pool = WorkerPool(_signal_me, 2, timeout_s=30)
    try:
        assert set(pool.run(range(8))) == {process.pid for process in pool._processes}
    finally:
        pool.close()


def _forgotten(sender: Any) -> None:
    pool = WorkerPool(_signal_me, 1, timeout_s=30)
    results = pool.run(range(100))
    sender.send(next(results))
    sender.close()  # and ends with the pool open, as a script does that breaks out of a loop


def test_a_program_ends_with_workers_that_were_not_closed() -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_forgotten, args=(sender,))
    process.start()
    sender.close()
    worker = receiver.recv()
    process.join(30)
    assert process.exitcode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


class _Deadly(list[torch.Tensor]):
    def __iter__(self) -> Any:
        os._exit(1)


def _crash_in_stack(task: int, context: Any) -> Any:
    context.publish(task)
    return context.stack(_Deadly())


def test_what_goes_wrong_after_reading_is_no_files_fault() -> None:
    pool = WorkerPool(_crash_in_stack, 1, timeout_s=30)
    try:
        with pytest.raises(WorkerDiedError) as caught:
            list(pool.run([5]))
        assert caught.value.row is None
    finally:
        pool.close()


def _blocked(task: int, context: Any) -> int:
    context.publish(7)
    signal.pause()
    return task


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the main process's watch, in its hands."""
    fake = SimpleNamespace(monotonic_ns=lambda: fake.now, now=10**15)
    monkeypatch.setattr(workers_module, "time", fake)
    return fake


def test_hours_that_the_main_process_did_not_see_do_not_count(clock: SimpleNamespace) -> None:
    pool = WorkerPool(_blocked, 1, timeout_s=100)
    try:
        pool._connections[0].send((0, 0))
        pool._queues[0].append(0)
        while pool._state[0] < 0:  # until the row is in hand
            os.sched_yield()
        assert pool._stalled([0]) == []
        clock.now += int(3600e9)  # a suspended group of processes, a closed laptop
        assert pool._stalled([0]) == []
        looks = 0
        while not pool._stalled([0]):
            clock.now += int(1e9)
            looks += 1
        assert 95 <= looks <= 101
    finally:
        pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say that a process is stopped")
def test_a_worker_that_is_stopped_itself_is_waited_for(clock: SimpleNamespace) -> None:
    pool = WorkerPool(_blocked, 1, timeout_s=10)
    try:
        pool._connections[0].send((0, 0))
        pool._queues[0].append(0)
        while pool._state[0] < 0:
            os.sched_yield()
        pid = pool._processes[0].pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        for _ in range(60):
            clock.now += int(1e9)
            assert pool._stalled([0]) == []
        os.kill(pid, signal.SIGCONT)
        os.waitid(os.P_PID, pid, os.WCONTINUED | os.WNOWAIT)
        for _ in range(60):
            clock.now += int(1e9)
            if pool._stalled([0]):
                break
        else:
            pytest.fail("a worker that hangs after it was stopped is noticed")
    finally:
        pool.close()


def test_a_read_that_was_suspended_is_no_slow_file(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(now=0.0, monotonic=lambda: fake.now)
    monkeypatch.setattr("unreel.media.source.time", fake)
    budget = Budget("a.mp4", max_seconds=60, max_packets=1000)
    fake.now += 3600  # Ctrl-Z, and back after an hour
    for _ in range(29):
        budget.packet()
        fake.now += 1
    budget.packet()
    fake.now += 1
    with pytest.raises(ReadTimeoutError, match="took more than 60 s"):
        budget.packet()


def test_what_hangs_is_noticed_all_the_same() -> None:
    pool = WorkerPool(_blocked, 1, timeout_s=0.4)
    try:
        with pytest.raises(WorkerStalledError, match="rows 7"):
            list(pool.run([0]))
    finally:
        pool.close()


# --------------------------------------------------------------------------------------------------- who owns what


def _hold(folder: str, sender: Any, *, with_child: bool) -> None:
    with claimed(folder):
        child = os.fork() if with_child else 0
        if with_child and child == 0:
            signal.pause()
        sender.send(child)
        signal.pause()


@pytest.mark.parametrize("with_child", [False, True])
def test_a_claim_dies_with_its_process(with_child: bool, tmp_path: Path) -> None:
    """Also where a worker that it forked lives on."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_hold, args=(str(tmp_path), sender), kwargs={"with_child": with_child})
    process.start()
    child = receiver.recv()
    try:
        for ask in (lambda: check_folder(tmp_path), lambda: claimed(tmp_path).__enter__()):
            with pytest.raises(BusyError, match=rf"another process works in this folder \(process {process.pid} on "):
                ask()
        process.kill()
        process.join()
        check_folder(tmp_path)
        with claimed(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    finally:
        process.kill()
        if child:
            os.kill(child, signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_a_drive_without_locks_says_nothing_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with claimed(tmp_path), claimed(tmp_path):
        check_folder(tmp_path)
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------------------------------------------- the script

SCRIPT = """
import multiprocessing
from unreel.core.processes import refuse_unguarded

refuse_unguarded()
process = multiprocessing.get_context("spawn").Process(target=print, args=("never",))
process.start()
process.join()
print("ended with", process.exitcode)
"""


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.stdout == "ended with 1\n"
    assert 'put what the script does below `if __name__ == "__main__":`' in done.stderr
    assert "bootstrapping" not in done.stderr  # what Python says of it


def _leave(task: int, context: Any) -> None:
    os._exit(1)


def test_where_processes_are_not_forked_a_worker_that_never_answers_points_at_the_script() -> None:
    pool = WorkerPool(_leave, 1, timeout_s=30)
    pool._forked = False  # what differs is only what is said
    try:
        with pytest.raises(WorkerDiedError) as caught:
            list(pool.run([0]))
    finally:
        pool.close()
    with pytest.raises(DataError, match=r'ended with code 1 with no file in hand; .*if __name__ == "__main__":'):
        isolate(caught.value, str)


# ---------------------------------------------------------------------------------------------------- its scores


def test_an_evaluation_takes_the_place_of_one_about_the_same_only(tmp_path: Path) -> None:
    about = {"task": "LabelTask", "data": "/a/bees.csv", "label": "species", "split": "own", "protocols": "knn"}
    others = [{key: "other"} for key in about]
    reports = [Report((), {}, {}, about={**about, **change}) for change in ({}, *others)]
    paths = [report.keep(tmp_path) for report in reports]
    assert len(set(paths)) == len(reports)
    assert paths[0].name.startswith("bees-species-")
    before = [path.read_text() for path in paths]
    again = Report((), {}, {}, notes=("newer",), about=about)
    assert again.keep(tmp_path) == paths[0]
    assert [path.read_text() for path in paths[1:]] == before[1:]
    assert Report.from_json(paths[0]).notes == ("newer",)
    odd = Report((), {}, {}, about={"data": "/ä/.. b/ü:*?.csv", "label": "a/b"}).keep(tmp_path)
    assert odd.parent == tmp_path / "scores"


def test_scores_are_kept_by_data_set_and_label(
    tiny_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    save_encoder(create_encoder("r3d_tiny"), run / "encoder.safetensors")
    (run / "config.yaml").write_text("method:\n  name: cvrl\n")
    header, *lines = (tiny_world / "manifest.csv").read_text().splitlines()
    unsplit = [header, *(line.replace(",train,", ",,").replace(",test,", ",,") for line in lines)]
    (tiny_world / "bees.csv").write_text("\n".join(unsplit) + "\n")
    found = []
    for data in ("manifest.csv", "bees.csv"):
        words = ["evaluate", str(run), str(tiny_world / data), "--label", "motion", "--protocol", "knn"]
        assert main([*words, "--json", "--quiet"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    kept = [report for _, report in kept_reports(run) if isinstance(report, Report)]
    assert sorted(r.about["data"] for r in kept) == [str(tiny_world / name) for name in ("bees.csv", "manifest.csv")]
    old = {name: value for name, value in found[0].items() if name != "about"}
    (run / "scores.json").write_text(json.dumps({**old, "notes": ["of an older version"]}))
    assert main(["report", str(run), "--quiet"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    for data in ("bees.csv", "manifest.csv"):
        assert f"{tiny_world.name}/{data}, label motion" in page
        assert f"data: {tiny_world / data}" in page
        assert "split: own" in page
    assert "split: own (train, test)" in page
    assert "split: drawn with seed 0" in page
    assert "of an older version" in page
    assert page.count("evaluated on ") == 4  # in the sentences on top, and above each table
