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
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml

from unreel.core.devices import choose_device
from unreel.core.digests import mapping_digest
from unreel.core.distributed import barrier, broadcast_object, rank, world_size
from unreel.core.errors import DataError, UnreelError, UsageError, unknown_name
from unreel.core.files import claimed, write_whole
from unreel.core.processes import refuse_unguarded
from unreel.core.progress import Progress
from unreel.core.settings import Range, Sections, Settings, load_sections
from unreel.data.batch import Batch
from unreel.data.record import FILE_NAME as RECORD_FILE
from unreel.data.record import DataRecord
from unreel.methods.chance import chance_levels
from unreel.methods.method import Method
from unreel.nn.encoder import Encoder
from unreel.nn.weights import FILE_NAME, load_encoder, save_encoder
from unreel.train.backend import Precision, start_processes
from unreel.train.checkpoint import Checkpoints, differences
from unreel.train.feed import Loader, steps_per_epoch
from unreel.train.health import watch
from unreel.train.monitor import Monitor, Probe, read_lines
from unreel.train.schedule import Plateau, Schedule, ScheduleName, make_schedule
from unreel.train.trainer import FitResult, fit
from unreel.train.validation import Validation, ValidationBatches

# Settings that change how fast a run goes or how much it writes, but not one bit of its result: a run may be resumed
# with others.
_NEUTRAL = frozenset(
    {
        "workers",
        "prefetch",
        "pin_memory",
        "start_method",
        "timeout_s",
        "cache_mb",
        "unused_parameters",
        "device",
        "log_every",
        "checkpoint_every",
        "checkpoint_every_s",
        "keep_checkpoints",
        "probe_every",
        "stop_after",
    }
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


def open_run(path: str | PathLike[str]) -> Run:
    """An existing run. Raises DataError when the directory holds none."""
    run = Run(Path(path))
    if not (run.path / "config.yaml").is_file():
        raise DataError(f"{run.path} is not a run: it has no config.yaml")
    return run


def run_length(loader: Loader, *, epochs: float | None, steps: int | None, accumulate: int) -> int:
    """Optimiser steps of a run: ``steps``, or ``epochs`` passes over the loader. Exactly one is given.

    Raises: UsageError otherwise, or when the loader has no length.
    """
    if (epochs is None) == (steps is None):
        raise UsageError("say how long to train: either steps or epochs")
    if steps is not None:
        return steps
    length = steps_per_epoch(loader)
    if length is None:
        raise UsageError("epochs cannot be counted: the loader has no length; give steps")
    assert epochs is not None
    return max(1, round(epochs * length / accumulate))


def _steps_of(epochs: float, what: str, loader: Loader, accumulate: int) -> int:
    length = steps_per_epoch(loader)
    if length is None:
        raise UsageError(f"{what} cannot be counted in epochs: the loader has no length")
    return round(epochs * length / accumulate)


def pretrain(
    method: Method,
    loader: Loader,
    *,
    out: str | PathLike[str],
    optimizer: torch.optim.Optimizer,
    epochs: Annotated[float, Range(gt=0, unit="epochs")] | None = None,
    steps: Annotated[int, Range(ge=1, unit="steps")] | None = None,
    schedule: ScheduleName | Schedule = "cosine",
    warmup_epochs: Annotated[float, Range(ge=0, unit="epochs")] = 0.0,
    warmup_steps: Annotated[int, Range(ge=0, unit="steps")] | None = None,
    final_lr: Annotated[float, Range(ge=0)] = 0.0,
    schedule_per: Literal["step", "epoch"] = "step",
    milestones: tuple[Annotated[float, Range(gt=0, unit="epochs")], ...] = (),
    milestone_factor: Annotated[float, Range(gt=0)] = 0.1,
    plateau_metric: str = "val_loss",
    plateau_factor: Annotated[float, Range(gt=0, lt=1)] = 0.1,
    plateau_patience: Annotated[float, Range(ge=0, unit="epochs")] = 50.0,
    min_lr: Annotated[float, Range(ge=0)] = 0.0,
    validate: ValidationBatches | Sequence[Batch] | None = None,
    validate_every: Annotated[float, Range(gt=0, unit="epochs")] = 1.0,
    validation_draws: Literal["fixed", "fresh"] = "fixed",
    select: str = "last",
    settings: Settings | Mapping[str, Mapping[str, object]] | None = None,
    card: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
    record: DataRecord | None = None,
    resume: bool = True,
    device: str | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    accumulate: Annotated[int, Range(ge=1)] = 1,
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None,
    memory_format: Literal["contiguous", "channels_last"] = "contiguous",
    synchronise_norm: bool = True,
    unused_parameters: bool = False,
    log_every: Annotated[int, Range(ge=1, unit="steps")] = 10,
    checkpoint_every: Annotated[int, Range(ge=1, unit="steps")] | None = None,
    checkpoint_every_s: Annotated[float, Range(ge=0, unit="s")] = 600.0,
    keep_checkpoints: Annotated[int, Range(ge=1)] = 2,
    probe: Probe | None = None,
    probe_every: Annotated[int, Range(ge=1, unit="steps")] | None = None,
    stop_after: int | None = None,
) -> Run:
    """Train ``method`` in a directory; go on where it stopped when the directory holds the same run.

    ``config.yaml`` is written first, then ``metrics.jsonl``, ``faults.jsonl`` and ``checkpoints/`` as it goes, and
    ``encoder.safetensors`` at the end. Called again on a finished run it returns it as it is.

    Args:
        method, loader, optimizer: as in ``fit``.
        out: the directory; made when missing.
        epochs, steps: how long; exactly one. warmup_epochs, warmup_steps: the linear start; steps win.
        schedule: "cosine" (to ``final_lr``), "constant", "multistep" (times ``milestone_factor`` at each of
            ``milestones``, epochs), "plateau" (see ``Plateau``; tcgl.md §5), or a function from step to learning rate;
            the base rate is the optimiser's.
        schedule_per: "epoch" lets "cosine" move at the beginning of each epoch only (object_aware.md §1.1).
        plateau_metric, plateau_factor, plateau_patience, min_lr: what "plateau" watches, by what it lowers the rate,
            after how many epochs without a better value, and how far.
        validate: held-out videos, measured every ``validate_every`` epochs and at the end: metrics "val_loss" and
            "val_<name>". ``validation_draws``: "fixed" draws the same clips every time, "fresh" others (P11).
        select: which weights the encoder is left with: "last", or the best of "val_loss", "val_accuracy", ….
            The last ones stay in the checkpoint.
        settings: the complete settings with their origins, for config.yaml and to tell runs apart.
        card: what the encoder's card should say besides: recipe, data.
        record: what the data are, kept in the directory, so that a resumed run says what has changed.
        notes: sentences for whoever reads the results; logged, kept in environment.json, shown on top of the report.
        resume: False refuses a directory that holds a run.
        log_every, checkpoint_every, checkpoint_every_s, keep_checkpoints: see ``Monitor`` and ``Checkpoints``.
        probe, probe_every: an online measure of the encoder, see ``Monitor``.
        stop_after: stop and save once this many steps are done.
        device, precision, seed, accumulate, max_grad_norm, memory_format, synchronise_norm, unused_parameters: as in
            ``fit``.

    Raises: UsageError when the directory holds another run, naming what differs; BusyError when another process works
        in it; WriteError where it cannot be written; and what ``fit`` raises.
    """
    refuse_unguarded()
    start_processes()
    run = Run(Path(out))
    plain = _plain(settings)
    total = run_length(loader, epochs=epochs, steps=steps, accumulate=accumulate)
    warmup = warmup_steps
    if warmup is None:
        length = steps_per_epoch(loader)
        if warmup_epochs and length is None:
            raise UsageError("warmup_epochs cannot be counted: the loader has no length; give warmup_steps")
        warmup = round(warmup_epochs * (length or 0) / accumulate)
    if warmup > total:
        given = f"warmup_epochs {warmup_epochs:g}" if warmup_steps is None else f"warmup_steps {warmup_steps}"
        whole = f"epochs {epochs:g}" if steps is None else f"steps {steps}"
        raise UsageError(
            f"{given} ({warmup} steps) is longer than the whole run, {whole} ({total} steps); set "
            f"warmup_{'epochs' if steps is None else 'steps'} to less"
        )
    if validate is None and (schedule == "plateau" or select != "last"):
        raise UsageError(
            f"{'schedule plateau' if schedule == 'plateau' else f'select {select}'} needs held-out videos: set "
            "validation to a number of videos or to a share"
        )
    epoch_steps = None
    if schedule_per not in ("step", "epoch"):
        raise unknown_name("schedule_per", schedule_per, ("step", "epoch"))
    if schedule_per == "epoch":
        length = steps_per_epoch(loader)
        if length is None:
            raise UsageError("schedule_per epoch cannot be counted: the loader has no length")
        if callable(schedule):
            raise UsageError("schedule_per epoch belongs to the schedule 'cosine', not to a function of the step")
        epoch_steps = length / accumulate
    rate = (
        schedule
        if callable(schedule)
        else make_schedule(
            schedule,
            optimizer.defaults["lr"],
            total,
            warmup,
            final_lr=final_lr,
            milestones=[_steps_of(m, "milestones", loader, accumulate) for m in milestones],
            milestone_factor=milestone_factor,
            plateau_factor=plateau_factor,
            plateau_patience=(
                _steps_of(plateau_patience, "plateau_patience", loader, accumulate) if schedule == "plateau" else 0
            ),
            min_lr=min_lr,
            steps_per_epoch=epoch_steps,
        )
    )
    validation = (
        None
        if validate is None
        else Validation(
            validate,
            every=max(1, _steps_of(validate_every, "validate_every", loader, accumulate)),
            select=select,
            plateau=rate if isinstance(rate, Plateau) else None,
            plateau_metric=plateau_metric,
            fresh=validation_draws == "fresh",
        )
    )
    identity: dict[str, object] = {**_identity(plain), "schedule": _name_of(schedule), "warmup_steps": warmup}
    identity["steps"] = total
    with ExitStack() as stack:
        if not _begin(run, settings, plain, identity, notes, record, stack, resume=resume):
            return run
        saver = Checkpoints(
            run.path / "checkpoints", every_steps=checkpoint_every, every_s=checkpoint_every_s, keep=keep_checkpoints
        )
        bar = stack.enter_context(Progress("pretrain", total, unit="steps")) if rank() == 0 else Progress("", total)
        echo = _both(bar_echo(bar, log_every), watch(chance_levels(plain), run.metrics()))
        monitor = Monitor(run.path, log_every=log_every, echo=echo, probe=probe, probe_every=probe_every)
        result = fit(
            method,
            loader,
            optimizer,
            total_steps=total,
            schedule=rate,
            device=device,
            precision=precision,
            seed=seed,
            accumulate=accumulate,
            max_grad_norm=max_grad_norm,
            memory_format=memory_format,
            synchronise_norm=synchronise_norm,
            unused_parameters=unused_parameters,
            checkpoint=saver,
            monitor=monitor,
            validation=validation,
            settings=identity,
            stop_after=stop_after,
        )
        if rank() == 0:
            selected: dict[str, object] = {"by": select}
            if validation is not None and validation.best_step >= 0:
                selected |= {"value": validation.best_value, "step": validation.best_step}
            _write_end(run, method, result, plain, {"selected": selected, **(card or {})})
        barrier()
    return run


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


def _name_of(schedule: ScheduleName | Schedule) -> str:
    return schedule if isinstance(schedule, str) else getattr(schedule, "__qualname__", type(schedule).__name__)


def _plain(settings: Settings | Mapping[str, Mapping[str, object]] | None) -> dict[str, dict[str, object]]:
    if settings is None:
        return {}
    if isinstance(settings, Settings):
        return settings.to_plain()
    return {section: dict(values) for section, values in settings.items()}


def _identity(plain: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    return {s: {k: v for k, v in values.items() if k not in _NEUTRAL} for s, values in plain.items()}


def _check_directory(run: Run, identity: Mapping[str, object], record: DataRecord | None, *, resume: bool) -> None:
    """Refuse a directory with something else in it before anything is written there."""
    known = run.environment.get("identity")
    if known is None:
        if run.completed or run.checkpoints:
            raise UsageError(f"{run.path} holds checkpoints or an encoder of unknown origin; choose another directory")
        return
    if not resume:
        raise UsageError(f"{run.path} already holds a run; resume it, or choose another directory")
    if mapping_digest(known) != mapping_digest(identity):
        changed = differences(known, identity)
        settings = [line for line in changed if line.partition(" ")[0] not in _OF_DATA]
        if record is None or not any(line.startswith("data.digest ") for line in changed):
            listed = "; ".join(changed)
            raise UsageError(f"{run.path} holds another run: {listed}. Choose another directory, or the old settings")
        differ = f"its data have changed since it began: {record.changes_since(run.path)}"
        if settings:
            listed = "; ".join(settings)
            raise UsageError(
                f"{run.path} holds another run: {listed}; and {differ}. Choose another directory, or the old settings"
            )
        raise DataError(
            f"{run.path} holds a run that cannot go on, because {differ}. Put the data back as they were, or choose "
            "another directory (--out) to train on them as they are now"
        )


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
) -> bool:
    """Claim the directory for all ranks and write what is known before the first step; False for a finished run.

    Rank 0 looks and writes; every rank hears what it found, so that all stop with the reason.
    """
    outcome: bool | UnreelError = False
    if rank() == 0:
        try:
            _check_directory(run, identity, record, resume=resume)
            if not run.completed:
                stack.enter_context(claimed(run.path))
                _check_directory(run, identity, record, resume=resume)  # what another process left meanwhile
                outcome = not run.completed
            if record is not None and (doubts := record.doubts_since(run.path)):
                log.warning("%s", doubts)
            if outcome:
                _write_beginning(run, settings, plain, identity, notes)
                if record is not None and not (run.path / RECORD_FILE).exists():
                    record.write(run.path)
        except UnreelError as error:
            outcome = error
    outcome = broadcast_object(outcome)
    if isinstance(outcome, UnreelError):
        raise outcome
    return outcome


def _write_beginning(
    run: Run,
    settings: Settings | Mapping[str, Mapping[str, object]] | None,
    plain: dict[str, dict[str, object]],
    identity: dict[str, object],
    notes: Sequence[str],
) -> None:
    for note in notes:
        log.info("%s", note)
    if isinstance(settings, Settings):
        settings.dump(run.path / "config.yaml")
    else:
        write_whole(run.path / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    old = run.environment
    entry = {"started": now, **describe_environment()}
    record = {**old, "identity": identity, "notes": [*notes], "sessions": [*old.get("sessions", []), entry]}
    write_whole(run.path / "environment.json", json.dumps(record, indent=1))


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
    run: Run,
    method: Method,
    result: FitResult,
    plain: Mapping[str, Mapping[str, object]],
    card: Mapping[str, object],
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
        log.info("%s: stopped at step %d of %d; call again to go on", run.path, result.step, result.total_steps)
