"""A run is a directory: what was asked, what happened, and what came out of it."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml

from unreel.core.devices import choose_device
from unreel.core.digests import mapping_digest
from unreel.core.distributed import barrier, from_rank_0, rank, world_size
from unreel.core.errors import DataError, UsageError
from unreel.core.files import claimed, write_whole
from unreel.core.processes import refuse_unguarded
from unreel.core.progress import Progress
from unreel.core.settings import Settings
from unreel.core.strict_yaml import Sections, load_sections
from unreel.data.batch import Batch
from unreel.data.record import FILE_NAME as RECORD_FILE
from unreel.data.record import DataRecord
from unreel.methods.method import Method
from unreel.methods.registry import chance_levels
from unreel.nn.encoder import Encoder
from unreel.nn.foreign import name_factory
from unreel.nn.registry import create_encoder
from unreel.nn.weights import FILE_NAME, load_encoder, named_encoder, save_encoder
from unreel.train.backend import Backend, start_processes
from unreel.train.checkpoint import Checkpoints, differences
from unreel.train.earlier import load_earlier, put_aside
from unreel.train.feed import Loader
from unreel.train.health import watch
from unreel.train.monitor import Monitor, Probe, read_lines
from unreel.train.options import Keeping, Training
from unreel.train.trainer import FitResult, fit
from unreel.train.validation import ValidationBatches

# Settings that change how fast a run goes or how much it writes, but not one bit of its result: a run may be resumed
# with others.
_NEUTRAL = frozenset(
    {"workers", "prefetch", "pin_memory", "start_method", "timeout_s", "cache_mb", "unused_parameters", "device"}
    | {entry.name for entry in fields(Keeping)}
)

# What differs because the data do, beside the settings that people make.
_OF_DATA = frozenset({"data.digest", "steps", "warmup_steps", "method.classes", "method.num_sources"})

REPORT_FILE = "report.html"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run's directory, read when asked."""

    path: Path

    @property
    def config(self) -> Sections:
        """The complete settings (config.yaml). Raises UsageError when there are none."""
        return load_sections(self.path / "config.yaml")

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine, times (environment.json); empty when there is none."""
        file = self.path / "environment.json"
        if not file.is_file():
            return {}
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    @property
    def notes(self) -> list[str]:
        """What to know of the run: videos left out as too short, embeddings that collapsed (environment.json)."""
        return [str(note) for note in self.environment.get("notes", [])]

    @property
    def encoder_path(self) -> Path:
        """Where the encoder is once the run is complete."""
        return self.path / FILE_NAME

    @property
    def completed(self) -> bool:
        """Whether training reached its end and left an encoder."""
        return self.encoder_path.is_file()

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return Checkpoints(self.path / "checkpoints").paths()

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl, in order of steps."""
        return list(read_lines(self.path / "metrics.jsonl"))

    def faults(self) -> list[dict[str, Any]]:
        """Files that could not be read, and what took their place (faults.jsonl)."""
        return list(read_lines(self.path / "faults.jsonl"))

    def load_encoder(self) -> Encoder:
        """The encoder that pre-training left, in evaluation mode. Raises DataError before the run is complete."""
        if not self.completed:
            done = self.checkpoints[-1].stem.removeprefix("step-").lstrip("0") if self.checkpoints else "no"
            raise DataError(f"{self.path}: the run is not complete ({done or 0} steps are saved); resume it first")
        return load_encoder(self.encoder_path)


def open_encoder(place: str | PathLike[str] | Run, *, factory: str | None = None) -> Encoder:
    """An encoder in evaluation mode: of a run, of a file, or of a name. What lies at a place goes before a name.

    Args:
        place: a run, its folder, an encoder's file, or the name of an encoder with weights: ``efficientnet_lite0``,
            ``timm:NAME``, ``hf:NAME``, or ``package.module:factory``, which is then run.
        factory: code that may be run to build what a file holds, see ``unreel.nn.load_encoder``.
    Raises: DataError where there is none, or the run is not complete; UsageError for a name without weights, and as
        ``load_encoder``.
    """
    if factory is not None:
        name_factory(factory)
    if isinstance(place, Run):
        return place.load_encoder()
    name = named_encoder(place)
    if name is not None:
        return create_encoder(name, seed=0).eval()
    run = Run(Path(place))
    return run.load_encoder() if (run.path / "config.yaml").is_file() else load_encoder(run.path)


def open_run(path: str | PathLike[str]) -> Run:
    """An existing run. Raises DataError when the directory holds none."""
    run = Run(Path(path))
    if not (run.path / "config.yaml").is_file():
        raise DataError(f"{run.path} is not a run: it has no config.yaml")
    return run


def pretrain(
    method: Method,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    *,
    out: str | PathLike[str],
    training: Training,
    device: Backend | str | torch.device | None = None,
    keeping: Keeping = Keeping(),  # noqa: B008 - frozen
    validate: ValidationBatches | Sequence[Batch] | None = None,
    probe: Probe | None = None,
    settings: Settings | Mapping[str, Mapping[str, object]] | None = None,
    card: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    record: DataRecord | None = None,
    resume: bool = True,
    go_on: bool = False,
) -> Run:
    """Train ``method`` in a directory; go on where it stopped when the directory holds the same run.

    ``config.yaml`` is written first, then ``metrics.jsonl``, ``faults.jsonl`` and ``checkpoints/`` as it goes, and
    ``encoder.safetensors`` at the end. Called again on a finished run it returns it as it is.

    Args:
        method, loader, optimizer, device: as in ``fit``.
        out: the directory; made when missing.
        training: how long, at what rate, what validation decides. keeping: what is written, and how often.
        validate: held-out videos.
        probe: an online measure of the encoder, see ``Monitor``.
        settings: the complete settings with their origins, for config.yaml and to tell runs apart.
        card: what the encoder's card should say besides: recipe, data.
        notes: sentences for whoever reads the results; logged, kept in environment.json, shown on top of the report.
        record: what the data are, kept in the directory, so that a resumed run says what has changed.
        resume: False refuses a directory that holds a run.
        go_on: a directory that holds a run with other data or settings keeps it in ``earlier``, and training goes on
            from its weights with a new schedule.

    Raises: UsageError when the directory holds another run, naming what differs; BusyError when another process works
        in it; WriteError where it cannot be written; and what ``fit`` raises.
    """
    refuse_unguarded()
    start_processes()
    run = Run(Path(out))
    plain = settings.to_plain() if isinstance(settings, Settings) else {s: {**v} for s, v in (settings or {}).items()}
    total, warmup = training.total_steps(loader), training.num_warmup(loader)
    rate = training.rate(loader, optimizer.defaults["lr"])
    validation = training.validation(validate, loader, rate)
    chosen = {s: {k: v for k, v in values.items() if k not in _NEUTRAL} for s, values in plain.items()}
    schedule = training.schedule
    shape = schedule if isinstance(schedule, str) else getattr(schedule, "__qualname__", type(schedule).__name__)
    identity = {**chosen, "schedule": shape, "warmup_steps": warmup, "steps": total}
    if isinstance(settings, Settings):
        identity = _as_known(identity, settings, run.environment.get("identity"))
    with ExitStack() as stack:
        begin = partial(_begin, run, settings, plain, identity, notes, record, stack, resume=resume, go_on=go_on)
        if not from_rank_0(begin):
            return run
        load_earlier(run.path, method)
        bar = stack.enter_context(Progress("pretrain", total, unit="steps")) if rank() == 0 else Progress("", total)
        echo = _both(bar_echo(bar, keeping.log_every), watch(chance_levels(plain), run.metrics()))
        begun = [p.detach().clone() for p in method.encoder.parameters()] if training.part_way < 1 else []
        result = fit(
            method,
            loader,
            optimizer,
            total_steps=total,
            schedule=rate,
            device=device,
            seed=training.seed,
            accumulate=training.accumulate,
            max_grad_norm=training.max_grad_norm,
            checkpoint=Checkpoints(
                run.path / "checkpoints",
                every_steps=keeping.checkpoint_every,
                every_s=keeping.checkpoint_every_s,
                keep=keeping.keep_checkpoints,
            ),
            monitor=Monitor(
                run.path, log_every=keeping.log_every, echo=echo, probe=probe, probe_every=keeping.probe_every
            ),
            validation=validation,
            settings=identity,
            stop_after=keeping.stop_after,
        )
        if result.completed and begun:
            with torch.no_grad():
                for reached, start in zip(method.encoder.parameters(), begun, strict=True):
                    reached.copy_(torch.lerp(start.to(reached), reached, training.part_way))
        if rank() == 0:
            selected: dict[str, object] = {"by": training.select}
            if validation is not None and validation.best_step >= 0:
                selected |= {"value": validation.best_value, "step": validation.best_step}
            _write_end(run, method, result, plain, {"selected": selected, **(card or {})})
        barrier()
    return run


def _as_known(identity: Mapping[str, Any], settings: Settings, known: Mapping[str, Any] | None) -> dict[str, Any]:
    """An identity without settings that unreel did not have when the run began, where they are as by default.

    So that a run of an older unreel goes on: a default of a new setting is what was done before there was one.
    """
    if known is None:
        return dict(identity)

    found: dict[str, Any] = {}
    for section, values in identity.items():
        if isinstance(values, Mapping) and section in settings.origins:
            before, origins = known.get(section, {}), settings.origins[section]
            kept = {name: v for name, v in values.items() if name in before or origins.get(name) != "default"}
            if kept or section in known:
                found[section] = kept
        else:
            found[section] = values
    return found


def _both(*echoes: Callable[[Mapping[str, float]], None]) -> Callable[[Mapping[str, float]], None]:
    """Several echoes as one."""

    def show(record: Mapping[str, float]) -> None:
        for echo in echoes:
            echo(record)

    return show


def bar_echo(bar: Progress, log_every: int) -> Callable[[Mapping[str, float]], None]:
    """A ``Monitor``'s echo that moves a bar: how far, the share of time spent waiting, and the newest losses."""
    begun = False
    notes: dict[str, str] = {}

    def show(record: Mapping[str, float]) -> None:
        nonlocal begun
        done = int(record["step"])
        if not begun:
            bar.resume_at(max(0, done - log_every))
            begun = True
        seconds = record.get("s_per_step", 0.0) * (done - bar.done)
        notes.update({name: f"{name} {record[name]:.3f}" for name in ("loss", "val_loss") if name in record})
        note = ", ".join(notes[name] for name in sorted(notes)) or None
        bar.advance(done - bar.done, wait_s=record.get("data_wait", 0.0) * seconds, note=note)

    return show


def add_note(run: Run, note: str) -> None:
    """A warning in the log, kept beside the run's other notes for its report."""
    log.warning("%s: %s", run.path, note)
    record = run.environment
    record["notes"] = [*dict.fromkeys([*record.get("notes", []), note])]
    write_whole(run.path / "environment.json", json.dumps(record, indent=1))


def _check_directory(run: Run, identity: Mapping[str, object], record: DataRecord | None, *, resume: bool) -> str:
    """Refuse a directory with something else in it before anything is written there; returns what has changed.

    A finished run whose data alone have changed is no other run: nothing of it would be trained anyway.
    """
    known = run.environment.get("identity")
    if known is None:
        if run.completed or run.checkpoints:
            raise UsageError(f"{run.path} holds checkpoints or an encoder of unknown origin; choose another directory")
        return ""
    if not resume:
        raise UsageError(f"{run.path} already holds a run; resume it, or choose another directory")
    if mapping_digest(known) == mapping_digest(identity):
        return ""
    changed = differences(known, identity)
    settings = [line for line in changed if line.partition(" ")[0] not in _OF_DATA]
    differ = ""
    if record is not None and any(line.startswith("data.digest ") for line in changed):
        differ = f"its data have changed since it began: {record.changes_since(run.path)}"
    return "; and ".join(filter(None, ["; ".join(settings if settings or differ else changed), differ]))


def _refuse_changed(run: Run, changed: str) -> None:
    """Say that a directory holds another run, or other data; a finished run with other data is only told of."""
    go_on = "--continue (go_on=True in Python) goes on from its weights with a new schedule"
    if not changed.startswith("its data have changed"):
        raise UsageError(
            f"{run.path} holds another run: {changed}. {go_on[0].upper()}{go_on[1:]}; or choose another directory, or "
            "the old settings"
        )
    if not run.completed:
        raise DataError(
            f"{run.path} holds a run that cannot go on, because {changed}. Put the data back as they were, or choose "
            f"another directory (--out) to train on them as they are now; or {go_on}"
        )
    log.warning("%s: the run is finished and stays as it is, but %s. %s", run.path, changed, go_on.capitalize())


def _begin(
    run: Run,
    settings: Settings | Mapping[str, Mapping[str, object]] | None,
    plain: dict[str, dict[str, object]],
    identity: dict[str, object],
    notes: Sequence[str],
    record: DataRecord | None,
    stack: ExitStack,
    *,
    resume: bool,
    go_on: bool,
) -> bool:
    """Claim the directory and write what is known before the first step; False for a finished run."""
    changed = _check_directory(run, identity, record, resume=resume)
    if go_on and not changed and run.completed:
        log.warning("%s: nothing has changed since the run was finished; give more epochs, or other data", run.path)
    if changed and not go_on:
        _refuse_changed(run, changed)
    elif changed or not run.completed:
        stack.enter_context(claimed(run.path))
        changed = _check_directory(run, identity, record, resume=resume)  # what another process left meanwhile
        if changed and not go_on:
            _refuse_changed(run, changed)
        elif changed:
            done = run.metrics()[-1]["step"] if run.metrics() else 0
            aside = put_aside(run.path)
            log.info(
                "%s: goes on from the weights of its step %d, with a new schedule of %s steps. What it was is kept in "
                "%s. What is other now: %s",
                *(run.path, done, identity["steps"], aside, changed),
            )
    if record is not None and (doubts := record.doubts_since(run.path)):
        log.warning("%s", doubts)
    if run.completed:
        return False
    for note in notes:
        log.info("%s", note)
    if isinstance(settings, Settings):
        settings.dump(run.path / "config.yaml")
    else:
        write_whole(run.path / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    old = run.environment
    entry = {"started": now, **describe_environment()}
    told = {**old, "identity": identity, "notes": [*notes], "sessions": [*old.get("sessions", []), entry]}
    write_whole(run.path / "environment.json", json.dumps(told, indent=1))
    if record is not None and not (run.path / RECORD_FILE).exists():
        record.write(run.path)
    return True


def describe_environment() -> dict[str, object]:
    """What a result may depend on besides the settings: versions, machine, processes. Plain values."""
    device = choose_device()
    packages = {}
    for name in ("unreel", "torch", "numpy", "av", "pillow", "safetensors"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": packages,
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _write_end(
    run: Run, method: Method, result: FitResult, plain: Mapping[str, Mapping[str, object]], card: Mapping[str, object]
) -> None:
    if result.completed and not run.completed:
        training = {"method": type(method).__name__, "steps": result.step, "settings": plain, **card}
        save_encoder(method.encoder, run.encoder_path, {"pretraining": training})
    record = run.environment
    record["sessions"][-1] |= {
        "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "steps": [result.resumed_from, result.step],
    }
    write_whole(run.path / "environment.json", json.dumps(record, indent=1))
    if not result.completed:
        log.info("%s: stopped at step %d of %d; the same call goes on", run.path, result.step, result.total_steps)
