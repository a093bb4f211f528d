"""The training loop: any method, any iterable of batches, any optimiser; no configuration.

A step is a function of (weights, optimiser state, batch, seed, step): torch is re-seeded from (seed, step, rank) at
each, so no generator has a state, and a run that is stopped and resumed ends with the same bits as one that is not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from os import PathLike
from typing import Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unreel.core.devices import TRAINING_READERS, choose_device, room_for
from unreel.core.digests import mapping_digest
from unreel.core.distributed import all_reduce_mean, all_reduce_sum, gather_objects, rank, same_everywhere, world_size
from unreel.core.errors import DataError, UnreelError, UsageError
from unreel.core.keys import Key
from unreel.core.memory import keep_freed_memory
from unreel.core.settings import Range
from unreel.core.signals import StopWish
from unreel.data.batch import Batch, Fault
from unreel.methods.method import LossOutput, Method, StepsDone
from unreel.nn.kernels import channels_last, keep_clear
from unreel.train.backend import Precision, autocast, distribute, start_processes
from unreel.train.checkpoint import Checkpoints
from unreel.train.feed import Loader, batches_from, place, steps_per_epoch, views_channels_last
from unreel.train.monitor import Monitor
from unreel.train.validation import Validation, eval_mode

# Steps in a row whose gradients were not finite before the run is declared broken: a scaler that starts at 2^16 and
# halves finds its scale well before.
_MOST_SKIPPED = 25

log = logging.getLogger(__name__)


class DivergedError(UnreelError):
    """The loss, the weights, or the gradients of many steps in a row, are not finite; no checkpoint holds any of it."""


class FitResult(NamedTuple):
    """Where training ended. ``completed`` is False when it was stopped before ``total_steps``."""

    step: int
    total_steps: int
    completed: bool
    skipped: int
    resumed_from: int
    last: dict[str, float]


class _Readback:
    """Numbers that every process agrees on, without stopping the device: on CUDA they arrive one step late."""

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._pending: tuple[int, Tensor, Any] | None = None

    def send(self, step: int, values: Tensor) -> tuple[int, list[float]] | None:
        """Send one step's values; returns (step, values) of the newest that have arrived."""
        if not self._late:
            return step, values.tolist()
        arrived = self.flush()
        host = values.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = (step, host, event)
        return arrived

    def flush(self) -> tuple[int, list[float]] | None:
        """Wait for what was sent last."""
        if self._pending is None:
            return None
        step, host, event = self._pending
        self._pending = None
        event.synchronize()
        return step, host.tolist()


class _Window:
    """Sums since the last record; read once per record, so that logging does not stop the device."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}
        self.steps = self.clips = 0
        self.waited_s, self.start_s = 0.0, time.perf_counter()

    def add(self, logs: Mapping[str, Tensor], *, weight: float) -> None:
        for name, value in logs.items():
            scaled = value.detach().float() * weight
            self.sums[name] = self.sums[name] + scaled if name in self.sums else scaled
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        if not self.sums:
            return {}
        # Over the steps that logged the name: what a method logs now and then is not diluted by the others.
        stacked = all_reduce_mean(torch.stack([total / self.weights[name] for name, total in self.sums.items()]))
        return dict(zip(self.sums, stacked.tolist(), strict=True))

    def timing(self) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.start_s, 1e-9)
        return {
            "data_wait": min(1.0, self.waited_s / seconds),
            "clips_per_s": self.clips * world_size() / seconds,
            "s_per_step": seconds / max(1, self.steps),
        }


def _describe(method: Method, optimizer: torch.optim.Optimizer, extra: Mapping[str, object]) -> dict[str, object]:
    """What makes a run what it is, as far as the loop can see it; compared before a checkpoint is used."""
    shapes = {name: list(p.shape) for name, p in method.named_parameters()}

    def plain(values: Mapping[str, object]) -> dict[str, object]:
        return {k: v for k, v in values.items() if isinstance(v, bool | int | float | str | tuple)}

    # What the groups say counts, not only the defaults: weight decay stands there. Their rates move as training goes.
    groups = {
        f"group {i}": {
            **plain({k: v for k, v in group.items() if k not in ("lr", "initial_lr")}),
            "n": len(group["params"]),
        }
        for i, group in enumerate(optimizer.param_groups)
    }
    return {
        "method": type(method).__name__,
        "parameters": mapping_digest(shapes),
        "optimizer": {"class": type(optimizer).__name__, **plain(optimizer.defaults), **groups},
        **extra,
    }


def _restart_batch_operations(method: Method, saved: Sequence[Sequence[dict[str, Tensor]]]) -> None:
    if len(saved) != world_size():
        if any(state for operations in saved for state in operations):
            raise UsageError(
                f"the checkpoint holds the batch operations' memory of {len(saved)} processes, this run has "
                f"{world_size()}; resume with {len(saved)}"
            )
        return
    for operation, state in zip(method.batch_operations, saved[rank()], strict=True):
        operation.load_state_dict(state)


def fit(
    method: Method,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: Annotated[int, Range(ge=1)] | None = None,
    schedule: Callable[[int], float] | None = None,
    device: str | torch.device | None = None,
    precision: Precision = "float32",
    seed: int = 0,
    accumulate: Annotated[int, Range(ge=1)] = 1,
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None,
    memory_format: str = "contiguous",
    synchronise_norm: bool = True,
    unused_parameters: bool = False,
    checkpoint: Checkpoints | str | PathLike[str] | None = None,
    monitor: Monitor | None = None,
    validation: Validation | None = None,
    settings: Mapping[str, object] | None = None,
    stop_after: Annotated[int, Range(ge=0)] | None = None,
) -> FitResult:
    """Train ``method``; resume by itself when ``checkpoint`` holds this run's state.

    Under torchrun or srun every process calls it with its own loader (equal batches) and its own copy of the method;
    gradients are averaged, batch norms synchronised. SIGTERM, Ctrl-C, SIGHUP and what a scheduler sends before a job's
    end (SIGUSR1, SIGUSR2) finish the step, save, and then do what they always do; a second one is immediate.

    Args:
        method: the objective with its encoder; left on ``device``.
        loader: any iterable of ``Batch``; started again when it ends. One with ``iterate(start_step)`` is not read
            from the beginning on resume. Views may be uint8 (``method.views`` is applied on the device) or float.
        optimizer: over the method's parameters; built before or after moving it.
        total_steps: optimiser steps in all; None is one pass over the loader, which then needs a length.
        schedule: step → learning rate, times a group's ``lr_scale`` when it has one; None leaves the optimiser's. A
            ``Plateau`` is given to ``validation`` too.
        device: None takes CUDA when there is one.
        precision: of the forward pass; weights and losses stay float32.
        seed: of every draw in a step: torch's generators, batch operations.
        accumulate: batches per optimiser step. It does not enlarge the pool of negatives.
        max_grad_norm: clip the gradients' total norm; a step whose norm is not finite is skipped.
        memory_format: "contiguous" or "channels_last" (5-D and 4-D weights; the fast layout for convolutions).
        synchronise_norm: with several processes, batch norm over the global batch.
        unused_parameters: with several processes, search for parameters that a step does not use (slower).
        checkpoint: a ``Checkpoints`` or a folder; None saves nothing.
        monitor: where records go; None keeps none.
        validation: what to measure on held-out videos and when; it also says which weights the method is left with.
            The checkpoint has the last ones in any case.
        settings: plain values that identify the run, compared on resume together with what the loop sees itself.
        stop_after: stop (and save) once this many steps are done, as a job with a time limit does.

    Returns: where it ended, and the last record.
    Raises: DivergedError for a loss or weights that are not finite; UsageError for a checkpoint of another run or a
        call that cannot work; DataError for a loader without batches.
    """
    if accumulate < 1 or (total_steps is not None and total_steps < 1):
        raise UsageError(f"accumulate and total_steps must be at least 1, got {accumulate} and {total_steps}")
    if memory_format not in ("contiguous", "channels_last"):
        raise UsageError(f"memory_format must be contiguous or channels_last, got {memory_format!r}")
    start_processes()
    target = choose_device(device)
    autocast(target, precision)  # an unknown precision is refused before anything moves
    length = steps_per_epoch(loader)
    if total_steps is None:
        if length is None:
            raise UsageError("total_steps is needed: the loader has no length")
        total_steps = max(1, length // accumulate)
    monitor = monitor if monitor is not None else Monitor()
    saver = Checkpoints(checkpoint) if isinstance(checkpoint, str | PathLike) else checkpoint

    if target.type == "cpu":
        keep_freed_memory()
    keep_clear(method)
    method.to(target)
    if memory_format == "channels_last":
        channels_last(method)
    module = distribute(method, target, synchronise_norm=synchronise_norm, unused=unused_parameters)
    module.train()
    # float16 gradients underflow without a scale; the other precisions have float32's range.
    scaler = torch.amp.GradScaler(target.type, enabled=precision == "float16")
    identity = _describe(
        method,
        optimizer,
        {
            "loop": {
                "total_steps": total_steps,
                "seed": seed,
                "precision": precision,
                "accumulate": accumulate,
                "max_grad_norm": max_grad_norm,
            },
            "settings": dict(settings or {}),
            **({} if validation is None else {"validation": validation.settings}),
        },
    )

    first, skipped = 0, 0
    state = saver.load(settings=identity) if saver is not None else None
    if state is not None:
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        _restart_batch_operations(method, state["batch_operations"])
        if state["quarantine"] and hasattr(loader, "extend_quarantine"):
            loader.extend_quarantine(state["quarantine"])
        if validation is not None:
            validation.load_state_dict(state["validation"])
        first, skipped = int(state["step"]), int(state["skipped"])
    monitor.resume(first)

    def save(step: int) -> None:
        # A finite loss can have gradients that are not: the weights tell one step before the next loss would.
        if not all(bool(torch.isfinite(p).all()) for p in method.parameters()):
            raise DivergedError(
                f"the weights are not finite after {step} of {total_steps} steps: training has diverged. They were not "
                "saved; lower the learning rate, lengthen the warm-up, or set max_grad_norm"
            )
        if saver is None:
            return
        write_faults()
        memories = gather_objects([operation.state_dict() for operation in method.batch_operations])
        quarantine = gather_objects(sorted(getattr(loader, "quarantine", ())))
        saver.save(
            {
                "step": step,
                "method": method.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "batch_operations": memories,
                "quarantine": sorted({entry for part in quarantine for entry in part}),
                "skipped": skipped,
                **({} if validation is None else {"validation": validation.state_dict()}),
            },
            settings=identity,
        )

    stopping = saving = False

    def agree(arrived: tuple[int, list[float]] | None) -> None:
        """Read what all processes said: a loss that is not finite, a wish to stop, rank 0's clock for saving."""
        nonlocal stopping, saving
        if arrived is None:
            return
        at, (loss, stop_wish, save_wish) = arrived
        if not abs(loss) < float("inf"):
            raise DivergedError(
                f"the loss is {loss} at step {at} of {total_steps}: training has diverged. Nothing after the last "
                "checkpoint was saved; lower the learning rate, lengthen the warm-up, or set max_grad_norm"
            )
        stopping, saving = stopping or stop_wish > 0, saving or save_wish > 0

    def fetch(step: int) -> Batch:
        asked_s = time.perf_counter()
        batch = next(batches)
        window.waited_s += time.perf_counter() - asked_s
        faults.extend((step + 1, fault) for fault in batch.faults)
        if world_size() == 1:
            write_faults()
        return batch

    def write_faults() -> None:
        """Hand the faults of all processes to the monitor, which writes on rank 0 only."""
        for at, fault in sorted((entry for part in gather_objects(faults) for entry in part), key=lambda e: e[0]):
            monitor.fault(fault, step=at)
        faults.clear()

    batches = batches_from(loader, first * accumulate, total_steps * accumulate)
    readback, window = _Readback(target), _Window()
    faults: list[tuple[int, Fault]] = []
    record: dict[str, float] = {}
    unapplied_in_a_row, size = 0, 0
    step, saved = first, first if state is not None else -1
    last_step = total_steps if stop_after is None else min(total_steps, max(stop_after, first))
    devices = [target] if target.type == "cuda" else []
    with StopWish() as stop, ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))  # the caller's generators come out as they went in
        stack.callback(batches.close)
        stack.enter_context(room_for(TRAINING_READERS if hasattr(loader, "workers") else 0))
        while step < last_step and not stopping:
            try:
                batch = fetch(step)
            except Exception:
                if stop.wished is None or world_size() > 1:
                    raise
                break  # the signal reached the loader's workers too; the state is whole: nothing of this step was done
            epoch = step * accumulate // length if length else 0
            progress = StepsDone(step, total_steps, epoch)
            torch.manual_seed(Key(seed, step, rank()).bits())
            if schedule is not None:
                for group in optimizer.param_groups:
                    group["lr"] = schedule(step) * group.get("lr_scale", 1.0)
            method.on_step_begin(progress)
            optimizer.zero_grad(set_to_none=True)
            wishes = [float(stop.wished is not None), float(saver is not None and rank() == 0 and saver.overdue())]
            for part in range(accumulate):
                if part:
                    batch = fetch(step)
                if world_size() > 1 and len(batch) != size:
                    if size or not same_everywhere([len(batch)]):
                        raise DataError(
                            f"batches must be equal on all processes and steps: step {step} has {len(batch)}, "
                            f"before it was {size or 'another number elsewhere'}"
                        )
                    size = len(batch)
                batch = replace(place(method.views, batch, target), key=Key(seed, step * accumulate + part, "forward"))
                for index, operation in enumerate(method.batch_operations):
                    batch = operation(batch, Key(seed, step * accumulate + part, f"batch operation {index}"))
                if memory_format == "channels_last":
                    batch = views_channels_last(batch)
                window.clips += len(batch) * len(batch.views)
                final = part == accumulate - 1
                quiet = module.no_sync() if isinstance(module, DistributedDataParallel) and not final else nullcontext()
                with quiet:
                    with autocast(target, precision):
                        output = cast(LossOutput, module(batch))
                    loss = output.loss.detach().float()
                    report = torch.stack([loss, *(torch.full_like(loss, wish) for wish in wishes)])
                    agree(readback.send(step, all_reduce_sum(report)))
                    scaler.scale(output.loss / accumulate).backward()  # type: ignore[no-untyped-call]
                window.add({"loss": output.loss, **output.logs}, weight=1 / accumulate)
                if validation is not None and step == first:
                    validation.check_names(list(output.logs))
            scaler.unscale_(optimizer)
            method.on_gradients()
            applied = True
            if max_grad_norm is not None:
                parameters = [p for group in optimizer.param_groups for p in group["params"]]
                norm = nn.utils.clip_grad_norm_(parameters, max_grad_norm)
                applied = bool(torch.isfinite(norm))
                window.add({"grad_norm": norm}, weight=1.0)
            if applied or scaler.is_enabled():
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                applied = scaler.get_scale() >= scale
            step += 1
            window.steps += 1
            skipped += not applied
            unapplied_in_a_row = 0 if applied else unapplied_in_a_row + 1
            if unapplied_in_a_row >= _MOST_SKIPPED:
                raise DivergedError(
                    f"the gradients of {_MOST_SKIPPED} steps in a row, up to step {step - 1}, are not finite; lower "
                    "the learning rate, or use bfloat16 or float32"
                )
            method.on_step_end(progress._replace(step=step), applied)
            probed = _probe(method, monitor) if monitor.wants_probe(step) else {}
            if validation is not None and validation.due(step, total_steps):
                agree(readback.flush())  # weights that a loss that is not finite has touched are never selected
                paused_s = time.perf_counter()
                probed |= validation.run(
                    method, step, device=target, precision=precision, memory_format=memory_format, seed=seed
                )
                window.start_s += time.perf_counter() - paused_s
            if step % monitor.log_every == 0 or step == total_steps:
                write_faults()
                lr = float(optimizer.param_groups[0]["lr"])
                record = {"step": step, "epoch": epoch, "lr": lr, **window.means(), **window.timing()}
                record |= {"skipped": skipped, "faults": monitor.faults, **probed}
                monitor.log(record)
                window.clear()
            elif probed:
                monitor.log({"step": step, "epoch": epoch, **probed})
            if saver is not None and step < last_step and (saving or saver.due(step)):
                agree(readback.flush())  # never save what a loss that is not finite has touched
                save(step)
                saved, saving = step, False
            if world_size() == 1 and stop.wished is not None:
                stopping = True  # alone there is nobody to agree with
        agree(readback.flush())
        if saved != step:
            save(step)
    if validation is not None and step >= total_steps:
        validation.leave_selected(method)
    _obey(stop, step, total_steps, saver)
    return FitResult(step, total_steps, step >= total_steps, skipped, first, record)


def _obey(stop: StopWish, step: int, total_steps: int, saver: Checkpoints | None) -> None:
    """Say what a signal stopped and how to go on, then let it do what it would have done."""
    if stop.wished is not None and rank() == 0:
        kept = "nothing was saved" if saver is None else f"saved in {saver.folder}; the same command goes on from there"
        log.warning("stopped by %s after %d of %d steps: %s", stop.name, step, total_steps, kept)
    stop.obey()


def _probe(method: Method, monitor: Monitor) -> dict[str, float]:
    assert monitor.probe is not None
    if rank() != 0:
        return {}
    with eval_mode(method.encoder):
        return {f"probe.{name}": float(value) for name, value in monitor.probe(method.encoder).items()}
