"""What jobs must keep: plain values, one record each, whatever the number of processes and whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest

import unreel.tasks.jobs as module
from unreel.core.errors import DataError, UsageError
from unreel.core.files import BusyError, claimed
from unreel.data.manifest import Manifest, Row
from unreel.media.image import encode_image
from unreel.nn import create_encoder, save_encoder
from unreel.protocols import Compute
from unreel.tasks import BASELINES, Job, JobStore, evaluate, run, run_all
from unreel.tasks.evaluate import Asked, ask
from unreel.tasks.jobs import open_task
from unreel.tasks.profiles import PROFILES, resolve_protocols
from unreel.tasks.records import Record, Resampling, scores_of

QUIET = Compute(device="cpu", workers=0, progress=False)
SEEDS = range(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pictures with two labels, and two encoders."""
    home = tmp_path_factory.mktemp("jobs")
    rows = []
    for i in range(20):
        rng = np.random.default_rng(i)
        level = np.array([60, 120, 180] if i % 2 else [160, 100, 60])
        pixels = np.clip(level + rng.normal(0, 60, (16, 16, 3)), 0, 255).astype(np.uint8)
        (home / f"{i:02d}.png").write_bytes(encode_image(pixels))
        rows.append(
            Row(f"{i:02d}.png", labels={"colour": "ab"[i % 2], "third": "xyz"[i % 3]}, groups={"group": f"{i}"})
        )
    Manifest(str(home), tuple(rows)).to_csv(home / "data.csv")
    for name, seed in (("one", 1), ("two", 2)):
        net = create_encoder("resnet_18", seed=seed, width=4)
        net.input_spec = replace(net.input_spec, num_frames=1, stride_frames=1, size_px=16)
        save_encoder(net, home / f"{name}.safetensors")
    return home


def jobs_of(folder: Path) -> list[Job]:
    """Two encoders, two tasks, ten seeds."""
    return [
        Job({"name": "label", "data": str(folder / "data.csv"), "label": label}, str(folder / f"{net}.safetensors"),
            "knn" if label == "colour" else {"name": "knn", "k": 3}, seed)
        for net in ("one", "two") for label in ("colour", "third") for seed in SEEDS
    ]  # fmt: skip


def records_in(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.glob("*.json")}


def process(folder: Path, store: Path, made: Path, dies: bool, dying: Event) -> None:
    """Works on all jobs; one of two processes dies in the midst of its eighth, the other begins only then."""
    count, real = 0, module.answer

    def answer(job: Job, *, compute: Compute) -> Record:
        nonlocal count
        count += 1
        if dies and count == 8:
            dying.set()
            os.kill(os.getpid(), signal.SIGKILL)
        if not dies:
            assert dying.wait(120)
        found = real(job, compute=compute)
        with made.open("a", encoding="utf-8") as stream:
            stream.write(f"{job.digest}\n")
        return found

    module.answer = answer
    run_all(jobs_of(folder), JobStore(store), compute=QUIET)


def test_forty_jobs_in_two_processes_one_of_them_killed(folder: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    dying, made = context.Event(), tmp_path / "made"
    both = [
        context.Process(target=process, args=(folder, tmp_path / "shared", made, dies, dying)) for dies in (True, False)
    ]
    for one in both:
        one.start()
    alone = run_all(jobs_of(folder)[::-1], JobStore(tmp_path / "alone"), compute=QUIET)
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [-signal.SIGKILL, 0]
    found = records_in(tmp_path / "shared")
    assert len(found) == len(alone) == 40
    assert found == records_in(tmp_path / "alone")
    assert len(made.read_text().split()) == len({*made.read_text().split()}) == 40  # each was made once
    assert not list((tmp_path / "shared").glob(".*"))


def test_evaluate_makes_its_scores_from_the_same_records(folder: Path, tmp_path: Path) -> None:
    job = jobs_of(folder)[3]
    encoder, task = module._open_encoder(job.encoder)[0], open_task(job.task, seed=job.seed)
    options = {"protocol": "knn", "seed": job.seed, "num_resamples": 100, "device": "cpu", "progress": False}
    report = evaluate(encoder, job.task["data"], label="colour", baselines=BASELINES, **options)
    store = JobStore(tmp_path)
    kept = {name: run(replace(job, control=name), store, compute=QUIET) for name in ("", *BASELINES)}
    kept = {name or "encoder": record for name, record in kept.items()}
    assert scores_of(task, kept, Resampling(num_resamples=100)) == list(report.scores)
    nets = {"encoder": Asked(encoder, PROFILES["standard"].plan(encoder.input_spec), PROFILES["standard"].pooling)}
    asked = ask(task, resolve_protocols("knn"), nets, seed=job.seed, compute=QUIET).records["encoder"]["knn"]
    assert asked.to_json() == kept["encoder"].to_json() == store.get(job.digest)
    for name, score in kept["encoder"].scores.items():
        assert score["value"] == report.score(metric=name).value
        assert score["n"] == report.score().n == len(kept["encoder"].outcomes.truth)


def test_a_job_is_plain_and_named_by_what_it_asks(folder: Path, tmp_path: Path) -> None:
    job = jobs_of(folder)[0]
    assert pickle.loads(pickle.dumps(job)) == job
    others = [
        replace(job, seed=1),
        replace(job, protocol={"name": "knn", "k": 5}),
        replace(job, control="random-init"),
        replace(job, task={**job.task, "label": "third"}),
        replace(job, encoder=str(folder / "two.safetensors")),
    ]
    assert len({j.digest for j in (job, *others)}) == 6
    # The same files elsewhere are the same job; another picture, or another label, is another.
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    there = replace(job, task={**job.task, "data": str(moved / "data.csv")}, encoder=str(moved / "one.safetensors"))
    assert there.digest == job.digest
    (moved / "03.png").write_bytes((moved / "04.png").read_bytes())
    table = (moved / "data.csv").read_text()
    (moved / "data.csv").write_text(table + "\n")  # looked at again
    assert there.digest != job.digest
    with pytest.raises(DataError, match="gone"):
        _ = replace(job, encoder=str(folder / "gone.safetensors")).digest


def test_what_is_there_is_not_made_again_and_what_is_broken_is_named(folder: Path, tmp_path: Path) -> None:
    job, store = jobs_of(folder)[0], JobStore(tmp_path)
    first = run(job, store, compute=QUIET)
    file = tmp_path / f"{job.digest}.json"
    state = file.stat().st_mtime_ns
    assert run(job, store, compute=QUIET).to_json() == first.to_json()
    assert file.stat().st_mtime_ns == state
    file.write_text(file.read_text()[:100])
    with pytest.raises(DataError, match="not a whole record"):
        run(job, store, compute=QUIET)
    with pytest.raises(UsageError, match="did you mean 'label'"):
        run(replace(job, task={**job.task, "name": "lable"}), store, compute=QUIET)


def test_a_claim_keeps_others_away_until_it_ends(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    with claimed(tmp_path, only="a.json"):
        with pytest.raises(BusyError):
            store.keep("a", lambda: "mine", wait=False)
        assert dict(store.work({"b": lambda: "other"})) == {"b": "other"}
    assert store.keep("a", lambda: "mine", wait=False) == "mine"
    assert store.keep("a", lambda: pytest.fail("made twice")) == "mine"
