"""Jobs: many questions to many encoders, shared by any number of processes, each answered once.

A job is plain values; what it is called follows from what it asks, of which data, of which weights. Its record is what
``evaluate`` makes its scores from.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from unreel.core.digests import content_digest, mapping_digest, place_digest
from unreel.core.errors import DataError, UsageError
from unreel.core.files import BusyError, claimed, write_whole
from unreel.core.settings import validate
from unreel.data.manifest import Manifest
from unreel.nn.encoder import Encoder
from unreel.nn.weights import named_encoder
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.store import FeatureStore, encoder_digest
from unreel.tasks.baselines import controls, random_init
from unreel.tasks.evaluate import Asked, ask
from unreel.tasks.profiles import get_profile, resolve_protocols
from unreel.tasks.records import Record
from unreel.tasks.task import TASKS, Task
from unreel.train.run import open_encoder

# The arguments of tasks that name data: a job is told apart by what they hold, not by where they are.
_DATA = ("data", "queries", "gallery", "shifted", "hypernyms")
_OPEN_ENCODERS = 4


@dataclass(frozen=True)
class Job:
    """One task for one encoder by one protocol: plain values that can be pickled, sent and written down.

    Args:
        task: its name among ``TASKS``, and its arguments: ``{"name": "label", "data": "a.csv", "label": "motion"}``.
        encoder: a run's folder or an encoder file.
        protocol: a name, or a name with settings: ``{"name": "knn", "k": 5}``.
        seed: seed for the split where the data has none, for selection, and for a control's weights.
        control: ask this control of the encoder instead, one of ``unreel.tasks.BASELINES``.
        profile: whose clips, pooling and settings are used.

    >>> Job({"name": "label", "data": "videos.csv"}, "run", "knn", seed=3).seed
    3
    """

    task: Mapping[str, Any]
    encoder: str
    protocol: str | Mapping[str, Any]
    seed: int = 0
    control: str = ""
    profile: str = "standard"

    @property
    def digest(self) -> str:
        """32 hex digits of what is asked, of which data, of which weights: on every machine the same.

        Raises: DataError where the data or the encoder is not there.
        """
        task = {k: _content(v) if k in _DATA else v for k, v in self.task.items()}
        return mapping_digest({"job": 1, **asdict(self), "task": task, "encoder": _open_encoder(self.encoder)[1]})


def run(job: Job, store: JobStore, *, compute: Compute = USUAL) -> Record:
    """The record of a job: the store's, or made now and kept there. Waits where another process makes it."""
    return _record(store.keep(job.digest, lambda: _made(job, store, compute)), job)


def run_all(jobs: Sequence[Job], store: JobStore, *, compute: Compute = USUAL) -> list[Record]:
    """The records of jobs, in their order; any number of processes may do this at a time, and share the work."""
    named = {job.digest: job for job in jobs}
    texts = dict(store.work({digest: lambda job=job: _made(job, store, compute) for digest, job in named.items()}))  # type: ignore[misc]
    return [_record(texts[digest], job) for digest, job in named.items()]


def answer(job: Job, *, compute: Compute = USUAL) -> Record:
    """Do a job."""
    task, profile = open_task(job.task, seed=job.seed), get_profile(job.profile)
    encoder, _ = _open_encoder(job.encoder)
    words = {"name": job.protocol} if isinstance(job.protocol, str) else dict(job.protocol)
    name = words.pop("name")
    (protocol,) = resolve_protocols(name, job.profile, settings={name: words} if words else None)
    plan, pooling = profile.plan(encoder.input_spec), None if job.control == "frame-statistics" else profile.pooling
    if job.control:
        found, _ = controls(encoder, [job.control], task, plan, seed=job.seed, compute=compute)
        # A net without batch statistics has no first weights of its own.
        encoder = found.get(job.control) or random_init(encoder, seed=job.seed)
    nets = {"encoder": Asked(encoder, plan, pooling)}
    return ask(task, [protocol], nets, seed=job.seed, compute=compute).records["encoder"][protocol.name]


def open_task(words: Mapping[str, Any], *, seed: int = 0) -> Task:
    """A task from its name and arguments; ``seed`` where it takes one. Raises UsageError for what it does not take."""
    given = dict(words)
    builder = TASKS[given.pop("name")]
    checked: dict[str, Any] = validate(builder, {k: v for k, v in given.items() if k not in _DATA}, "task")
    if "seed" in inspect.signature(builder).parameters:
        checked = {"seed": seed, **checked}
    return builder(**{k: v for k, v in given.items() if k in _DATA}, **checked)


def _made(job: Job, store: JobStore, compute: Compute) -> str:
    return answer(job, compute=replace(compute, store=compute.store or store.features)).to_json()


def _record(text: str, job: Job) -> Record:
    return Record.from_json(text, f"the record of {job}")


def _open_encoder(path: str) -> tuple[Encoder, str]:
    if named_encoder(path):
        return _opened(path, "")
    file = Path(path) / "encoder.safetensors" if os.path.isdir(path) else Path(path)
    return _opened(path, place_digest(file))


@lru_cache(maxsize=_OPEN_ENCODERS)
def _opened(path: str, state: str) -> tuple[Encoder, str]:
    encoder = open_encoder(path)
    return encoder, encoder_digest(encoder)


def _content(path: str) -> str:
    return _digest(path, place_digest(path))


@lru_cache(maxsize=64)
def _digest(path: str, state: str) -> str:
    try:
        return Manifest.open(path, tell=False).digest
    except (DataError, UsageError):  # a file of another kind
        return content_digest(path)


@dataclass(frozen=True)
class JobStore:
    """Records by digest in a folder, whole or not there. Any number of processes may work in it at a time.

    A record is made under a claim on its file. A process that dies leaves nothing but a claim that no longer holds, so
    that the next one makes the record. Where a disk knows no claims, two may make the same record, which harms nothing.
    """

    folder: Path
    features: FeatureStore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        object.__setattr__(self, "features", FeatureStore(self.folder / "features"))

    def get(self, digest: str) -> str | None:
        """The text of a record, or None."""
        try:
            return self._file(digest).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def keep(self, digest: str, make: Callable[[], str], *, wait: bool = True) -> str:
        """The text of a record: what is there, or what ``make`` returns, which is then kept.

        Raises: BusyError where another process makes it, unless it is to be waited for.
        """
        found = self.get(digest)
        if found is not None:
            return found
        with claimed(self.folder, only=self._file(digest).name, wait=wait):
            found = self.get(digest)  # the one that was waited for may have kept it
            if found is None:
                found = make()
                write_whole(self._file(digest), found)
            return found

    def work(self, jobs: Mapping[str, Callable[[], str]]) -> Iterator[tuple[str, str]]:
        """Digest and text of every record, as they are there: first what no other process makes, then the others'.

        Args:
            jobs: digest → what makes the text of its record.
        """
        others = []
        for digest, make in jobs.items():
            try:
                yield digest, self.keep(digest, make, wait=False)
            except BusyError:
                others.append(digest)
        for digest in others:
            yield digest, self.keep(digest, jobs[digest])

    def _file(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"
