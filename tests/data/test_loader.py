import faulthandler
import logging
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unreel.core.errors import DataError, UsageError
from unreel.data.batch import Batch, ViewParams
from unreel.data.contracts import FrameSize
from unreel.data.dataset import ClipDataset, EvaluationDataset
from unreel.data.loader import ClipLoader, iterate_evaluation
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan, PairSampler
from unreel.data.workers import WorkerDiedError, WorkerPool, WorkerStalledError, in_background
from unreel.media import Frames, UnreadableError, VideoInfo
from unreel.media.write import write_video
from unreel.views.presets import view_plan

pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


class MemoryDecoder:
    """Videos that exist by name only; the name says what goes wrong: bad, hang, crash, killed, slow."""

    name = "memory"
    info = VideoInfo(16, 12, 50, 2.0, 25.0, "memory")

    def probe(self, path: Path) -> VideoInfo:
        return self.info

    def frame_times(self, path: Path) -> np.ndarray:
        return np.arange(50) / 25

    def read(self, path: Path, *, indices=None, times_s=None) -> Frames:
        name = Path(path).stem
        if "bad" in name:
            raise UnreadableError(path, "is made up")
        if "hang" in name:
            time.sleep(60)
        if "crash" in name:
            faulthandler.disable()  # the test runner's, which would print where
            os.kill(os.getpid(), signal.SIGSEGV)
        if "killed" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "slow" in name:
            time.sleep(0.3)
        pixels = np.empty((len(indices), 12, 16, 3), dtype=np.uint8)
        pixels[:] = np.asarray(indices)[:, None, None, None]
        return Frames(pixels, self.frame_times(path)[indices])


class Whole:
    num_views = 2

    def draw(self, key, view, size: FrameSize, sidecars) -> ViewParams:
        return ViewParams({"draw.number": torch.tensor([key.child(view, "draw").uniform()])})

    def crop(self, view, frames, params):
        return frames

    def align(self, view, data, params):
        return data

    def apply(self, batch):
        return batch


def dataset(*names: str) -> ClipDataset:
    rows = tuple(Row(f"{name}.mp4") for name in names)
    return ClipDataset(Manifest("/nowhere", rows), PairSampler(4, 2), Whole(), decoder=MemoryDecoder())


def videos(count: int, **special: str) -> ClipDataset:
    """``videos(10, i3="bad")``: ten videos, number 3 bad."""
    return dataset(*(f"{special.get(f'i{i}', 'v')}{i}" for i in range(count)))


def same(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.row, b.row)
        and torch.equal(a.sample_id, b.sample_id)
        and torch.equal(a.group, b.group)
        and a.faults == b.faults
        and torch.equal(a.targets["interval"], b.targets["interval"])
        and all(
            torch.equal(v.data, w.data)
            and torch.equal(v.times_s, w.times_s)
            and v.params.values.keys() == w.params.values.keys()
            and all(torch.equal(v.params[k], w.params[k]) for k in v.params.values)
            for v, w in zip(a.views, b.views, strict=True)
        )
    )


# ------------------------------------------------------------------------------------------------------- order


@given(st.integers(4, 60), st.integers(1, 8), st.booleans(), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_tickets(rows, batch, drop_last, reserves, seed):
    batch = min(batch, rows)
    loader = ClipLoader(videos(rows), batch, seed=seed, drop_last=drop_last, reserves=reserves)
    assert loader.steps_per_epoch == (rows // batch if drop_last else -(-rows // batch))
    for epoch in (0, 3):
        seen: list[int] = []
        for step in range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch):
            tickets = loader.tickets(step)
            assert len(tickets) == batch  # batches never shrink
            assert {(t.epoch, t.step) for t in tickets} == {(epoch, step)}
            taken = [t.row for t in tickets]
            spare = [r for t in tickets for r in t.reserves]
            assert len(set(taken)) == batch
            assert len(set(spare)) == len(spare) == min(batch * reserves, rows - batch)
            assert not set(spare) & set(taken)
            assert max((len(t.reserves) for t in tickets), default=0) <= reserves
            seen += taken
        assert len(set(seen)) == (len(seen) if drop_last else rows)
        assert set(seen) <= set(range(rows))


def test_epochs_and_seeds_differ_and_every_order_is_uniform():
    data = videos(6)

    def order(seed: int, epoch: int) -> tuple[int, ...]:
        loader = ClipLoader(data, 3, seed=seed)
        return tuple(t.row for s in (2 * epoch, 2 * epoch + 1) for t in loader.tickets(s))

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    first = np.bincount([order(0, e)[0] for e in range(600)], minlength=6)
    assert first.min() > 60


def test_ranks_are_slices_of_the_global_batch():
    data = videos(23, i4="bad")
    whole = ClipLoader(data, 6, seed=2)
    ranks = [ClipLoader(data, 6, seed=2, rank=r, world_size=3) for r in range(3)]
    for step in (0, 5, 11):
        assert whole.tickets(step) == [t for r in ranks for t in r.tickets(step)]
    merged = [list(r.iterate(0, 4)) for r in ranks]
    for step, batch in enumerate(whole.iterate(0, 4)):
        parts = [m[step] for m in merged]
        assert torch.equal(batch.row, torch.cat([p.row for p in parts]))
        assert torch.equal(batch.views[1].data, torch.cat([p.views[1].data for p in parts]))
        assert batch.faults == tuple(f for p in parts for f in p.faults)


def test_constructor_refuses():
    with pytest.raises(DataError, match=r"has 5 videos, fewer than one global batch of 8; set --train\.batch_size 5"):
        ClipLoader(videos(5), 8)
    with pytest.raises(UsageError, match="cannot be divided over 3 processes; use 6"):
        ClipLoader(videos(9), 8, world_size=3)
    with pytest.raises(UsageError, match="rank 2 is not one of 2"):
        ClipLoader(videos(9), 8, rank=2, world_size=2)
    with pytest.raises(UsageError, match="batch_size must be ≥ 1"):
        ClipLoader(videos(9), 0)
    with pytest.raises(UsageError, match="timeout_s"):
        ClipLoader(videos(9), 3, timeout_s=0)
    with pytest.raises(UsageError, match="first step"):
        next(iter(ClipLoader(videos(9), 3).iterate(-1)))


# ----------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_count_changes_nothing_and_faults_refill_identically(workers):
    data = videos(20, i3="bad", i11="bad")
    expected = list(ClipLoader(data, 4, seed=5, max_fault_share=1).iterate(0, 10))
    assert sum(len(b.faults) for b in expected) >= 3
    found = list(ClipLoader(data, 4, seed=5, workers=workers, max_fault_share=1).iterate(0, 10))
    assert len(found) == 10
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    for batch in expected:
        assert len(set(batch.row.tolist())) == 4  # a substitute never duplicates a neighbour


@pytest.mark.parametrize("workers", [0, 2])
def test_restart_at_step_k_gives_the_same_batches(workers):
    data = videos(10)
    through = list(ClipLoader(data, 3, workers=workers).iterate(0, 7))
    resumed = list(ClipLoader(data, 3, workers=workers).iterate(4, 7))
    assert all(same(a, b) for a, b in zip(through[4:], resumed, strict=True))
    assert [len(list(ClipLoader(data, 3).iterate())), len(list(ClipLoader(data, 3).iterate(7, 7)))] == [3, 0]


def test_workers_end_with_the_iterator():
    loader = ClipLoader(videos(8), 2, workers=2)
    batches = loader.iterate(0, 1000)
    next(batches)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    running = set(children.read_text().split()) if children.exists() else set()
    batches.close()
    if children.exists():
        assert len(running - set(children.read_text().split())) == 2


def test_batches_outlive_the_loader():
    list(ClipLoader(videos(8), 2, workers=2).iterate(0, 1))  # multiprocessing's own descriptors are open from here on
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))
    batches = list(ClipLoader(videos(8), 2, workers=2).iterate(0, 40))
    assert len(list(descriptors.iterdir())) == before  # none is held by a batch that is kept
    again = list(ClipLoader(videos(8), 2).iterate(0, 40))
    assert all(same(a, b) for a, b in zip(batches, again, strict=True))
    batches[0].views[0].data.zero_()  # writable memory of our own
    assert same(batches[1], again[1])


def test_a_hanging_decoder_is_quarantined(caplog):
    data = videos(12, i5="hang")
    loader = ClipLoader(data, 4, seed=3, workers=2, timeout_s=1.0)
    assert 5 not in [t.row for t in loader.tickets(0)]  # some batches are out before the hang
    with caplog.at_level(logging.WARNING, "unreel.data"):
        batches = list(loader.iterate(0, 6))
    assert [*loader.quarantine] == ["hang5.mp4"]
    assert len(batches) == 6
    assert "restarting the workers without hang5.mp4" in caplog.text
    faults = [f for b in batches for f in b.faults]
    assert {(f.path, f.cause) for f in faults} == {("hang5.mp4", "Quarantined")}
    assert all("no answer for 1 s" in f.message for f in faults)
    # With the quarantine from a checkpoint the same batches come without waiting, from any number of workers.
    for workers in (0, 2):
        resumed = ClipLoader(data, 4, seed=3, workers=workers, timeout_s=1.0, quarantine=loader.quarantine)
        for a, b in zip(batches, resumed.iterate(0, 6), strict=True):
            assert torch.equal(a.row, b.row)
            assert torch.equal(a.views[0].data, b.views[0].data)
    later = ClipLoader(data, 4, seed=3)
    later.extend_quarantine(loader.quarantine)
    assert [*later.quarantine] == [*loader.quarantine]
    assert [b.row.tolist() for b in later.iterate(0, 6)] == [b.row.tolist() for b in batches]
    # … and are those of a file that is merely unreadable.
    bad = ClipLoader(videos(12, i5="bad"), 4, seed=3)
    assert [b.row.tolist() for b in bad.iterate(0, 6)] == [b.row.tolist() for b in batches]


def test_a_slow_batch_is_no_hang():
    data = dataset(*(f"slow{i}" for i in range(4)))
    loader = ClipLoader(data, 4, workers=1, timeout_s=0.8)  # the batch takes 1.2 s, each video 0.3 s
    assert len(list(loader.iterate(0, 1))) == 1
    assert not loader.quarantine


def test_a_file_that_crashes_a_worker_is_quarantined():
    loader = ClipLoader(videos(12, i5="crash"), 4, seed=3, workers=2)
    batches = list(loader.iterate(0, 3))
    assert [*loader.quarantine] == ["crash5.mp4"]
    messages = [f.message for b in batches for f in b.faults]
    assert any("SIGSEGV" in m for m in messages)
    plain = ClipLoader(videos(12, i5="bad"), 4, seed=3)
    assert [b.row.tolist() for b in plain.iterate(0, 3)] == [b.row.tolist() for b in batches]


def test_a_worker_killed_for_memory_stops_with_advice():
    with pytest.raises(DataError, match=r"(?s)SIGKILL.*ran out of memory.*fewer workers"):
        list(ClipLoader(videos(4, i1="killed"), 4, workers=1).iterate(0, 1))


def test_errors_in_workers_reach_the_caller():
    class Broken(Whole):
        def crop(self, view, frames, params):
            raise RuntimeError("a bug in a view")

    data = videos(6)
    data.views = Broken()
    with pytest.raises(RuntimeError, match="a bug in a view") as caught:
        list(ClipLoader(data, 2, workers=2).iterate(0, 2))
    assert "in a loader worker" in caught.value.__notes__[0]
    with pytest.raises(DataError, match=r"step 0: .* and its 0 reserves cannot be read"):
        list(ClipLoader(videos(2, i0="bad"), 2, workers=1).iterate(0, 1))


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_faults_stop_the_run(workers):
    data = videos(40, **{f"i{i}": "bad" for i in range(8)})
    loader = ClipLoader(data, 4, workers=workers, max_fault_share=0.05)
    with pytest.raises(DataError, match=r"(?s)\d+ of \d+ samples .*share of 0\.05.*is made up.*faults\.jsonl"):
        list(loader.iterate(0, 100))
    assert loader.faults_seen > 5
    assert loader.samples_seen < 100
    assert len(list(ClipLoader(data, 4, max_fault_share=1).iterate(0, 20))) == 20
    # One early fault of few samples stops nothing.
    assert len(list(ClipLoader(videos(10, i1="bad"), 5, max_fault_share=0.05).iterate(0, 2))) == 2


def test_pinned_memory_is_asked_for_ahead(monkeypatch):
    pinned = []

    def pin(self):
        pinned.append(threading.current_thread().name)
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    expected = list(ClipLoader(videos(8), 2).iterate(0, 4))
    found = list(ClipLoader(videos(8), 2, workers=1, pin_memory=True).iterate(0, 4))
    assert all(same(a, b) for a, b in zip(expected, found, strict=True))
    assert pinned == ["unreel-loader_0"] * 4  # one block per batch, not one call per tensor
    list(ClipLoader(videos(8), 2, pin_memory=True).iterate(0, 1))
    assert len(pinned) > 4


def test_background_iteration_ends_and_raises():
    closed = []

    def numbers():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    ahead = in_background(numbers())
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    assert closed == [True]

    def fails():
        yield 1
        raise DataError("no more")

    ahead = in_background(fails())
    assert next(ahead) == 1
    with pytest.raises(DataError, match="no more"):
        next(ahead)


# -------------------------------------------------------------------------------------------------------- pool


def _echo(task, context):
    context.publish(task)
    return {
        "task": task,
        "same": [torch.arange(6).reshape(2, 3).t(), torch.empty(0, 3), torch.tensor(True)],
        "half": torch.full((5,), 1.5, dtype=torch.float16),
        "after": torch.arange(17, dtype=torch.float64),
        "large": context.stack([torch.full((600, 1000), i, dtype=torch.uint8) for i in (task, 1)]),
        "small": context.stack([torch.ones(2), torch.zeros(2)]),
    }


def test_pool_keeps_order_and_carries_every_tensor():
    pool = WorkerPool(_echo, 3, timeout_s=10, prefetch=2)
    try:
        results = list(pool.run(range(20)))
        assert [r["task"] for r in results] == list(range(20))
        last = results[-1]
        assert last["same"][0].tolist() == [[0, 3], [1, 4], [2, 5]]
        assert last["same"][1].shape == (0, 3)
        assert last["same"][2].dtype == torch.bool
        assert last["half"].tolist() == [1.5] * 5
        assert last["after"].tolist() == list(range(17))
        assert last["small"].tolist() == [[1, 1], [0, 0]]
        for task, result in enumerate(results):
            assert result["large"].shape == (2, 600, 1000)
            assert result["large"].sum() == 600_000 * (task + 1)
        assert list(pool.run([])) == []
    finally:
        pool.close()


def test_pool_reads_tasks_only_as_far_as_needed():
    asked = []

    def tasks():
        for i in range(100):
            asked.append(i)
            yield i

    pool = WorkerPool(_echo, 2, timeout_s=10, prefetch=2)
    try:
        results = pool.run(tasks())
        next(results)
        time.sleep(0.2)
        next(results)
        assert len(asked) <= 2 + 2 * 2
    finally:
        pool.close()


def _row_then_sleep(task, context):
    context.publish(7)
    time.sleep(60)


def test_pool_names_the_rows_of_stalled_workers():
    pool = WorkerPool(_row_then_sleep, 2, timeout_s=0.3)
    try:
        with pytest.raises(WorkerStalledError, match="rows 7") as caught:
            list(pool.run([0, 1]))
        assert set(caught.value.rows) == {7}
        workers = list(pool._processes)
    finally:
        pool.close()
    # They sleep for a minute: ended, not waited for.
    assert [worker.exitcode < 0 for worker in workers] == [True, True]


def _exit(task, context):
    os._exit(3)


def test_pool_notices_a_death_without_a_file_in_hand():
    pool = WorkerPool(_exit, 1, timeout_s=10)
    try:
        with pytest.raises(WorkerDiedError, match="ended with code 3") as caught:
            list(pool.run([0]))
        assert caught.value.row is None
    finally:
        pool.close()
    with pytest.raises(UsageError, match="workers must be ≥ 1"):
        WorkerPool(_echo, 0, timeout_s=1)


# -------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_in_order_with_faults(workers):
    rows = Manifest("/nowhere", tuple(Row(f"{n}.mp4") for n in ("v0", "bad1", "v2", "v3")))
    plan = ClipPlan(num_frames=4, stride=1, num_clips=2, num_crops=1, size_px=8, short_side_px=8)
    data = EvaluationDataset(rows, plan, MemoryDecoder())
    results = list(iterate_evaluation(data, workers=workers))
    assert [r.row for r in results] == [0, 1, 2, 3]
    assert [r.fault.cause if r.fault else "" for r in results] == ["", "UnreadableError", "", ""]
    assert torch.equal(results[3].views, data[3].views)
    assert [r.row for r in iterate_evaluation(data, [3, 0], workers=workers)] == [3, 0]


def test_evaluation_survives_a_hanging_file():
    rows = Manifest("/nowhere", tuple(Row(f"{n}.mp4") for n in ("v0", "hang1", "v2", "crash3", "v4")))
    plan = ClipPlan(num_frames=4, stride=1, num_clips=2, num_crops=1, size_px=8, short_side_px=8)
    data = EvaluationDataset(rows, plan, MemoryDecoder())
    results = list(iterate_evaluation(data, workers=2, timeout_s=1.0))
    assert [r.row for r in results] == [0, 1, 2, 3, 4]
    assert [r.fault is not None for r in results] == [False, True, False, True, False]


# -------------------------------------------------------------------------------------------------- real files


def test_real_videos_with_forked_and_served_workers(tmp_path):
    """Whatever the start method, decoding in workers gives the frames and draws of decoding here."""
    for i in range(4):
        frames = [np.full((36, 48, 3), 10 * i + t, dtype=np.uint8) for t in range(20)]
        write_video(tmp_path / f"{i}.mp4", frames, 10.0)
    data = ClipDataset(Manifest.open(tmp_path), PairSampler(4, 2), view_plan("release", size=24), seed=3)
    expected = list(ClipLoader(data, 2, seed=3).iterate(0, 4))
    for method in ("fork", "forkserver"):
        found = list(ClipLoader(data, 2, seed=3, workers=2, start_method=method).iterate(0, 4))
        assert all(same(a, b) for a, b in zip(expected, found, strict=True)), method
