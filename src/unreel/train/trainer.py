"""The training loop: any method, any iterable of batches, any optimiser; no configuration.

A step is a function of (weights, optimiser state, batch, seed, step): torch is re-seeded from (seed, step, rank) at
each, so no generator has a state, and a run that is stopped and resumed ends with the same bits as one that is not.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from os import PathLike
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from unreel.core.checks import Amount, Count, Positive, checked
from unreel.core.devices import TRAINING_READERS, room_for
from unreel.core.digests import mapping_digest
from unreel.core.distributed import all_reduce_mean, all_reduce_sum, gather_objects, rank, world_size
from unreel.core.errors import DataError, UnreelError, UsageError
from unreel.core.keys import Key
from unreel.core.signals import StopWish
from unreel.data.batch import Batch, Fault
from unreel.methods.method import LossOutput, Method, StepsDone
from unreel.nn.encoder import Encoder
from unreel.nn.going_on import settle_norms
from unreel.train.backend import Backend, start_processes
from unreel.train.checkpoint import Checkpoints
from unreel.train.feed import Loader, batches_from, place, steps_per_epoch
from unreel.train.monitor import Monitor
from unreel.train.validation import Validation, eval_mode

# Batches on which the statistics of norms are measured, where they are to be settled.
_SETTLING = 8
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


@checked
def fit(
    method: Method,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    *,
    total_steps: Count | None = None,
    schedule: Callable[[int], float] | None = None,
    device: Backend | str | torch.device | None = None,
    seed: int = 0,
    accumulate: Count = 1,
    max_grad_norm: Positive | None = None,
    checkpoint: Checkpoints | str | PathLike[str] | None = None,
    monitor: Monitor | None = None,
    validation: Validation | None = None,
    settings: Mapping[str, object] | None = None,
    stop_after: Amount | None = None,
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
        device: None takes CUDA when there is one. A ``Backend`` says more: precision, memory format.
        seed: of every draw in a step: torch's generators, batch operations.
        accumulate: batches per optimiser step. It does not enlarge the pool of negatives.
        max_grad_norm: clip the gradients' total norm; a step whose norm is not finite is skipped.
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
    start_processes()
    length = steps_per_epoch(loader)
    if total_steps is None:
        if length is None:
            raise UsageError("total_steps is needed: the loader has no length")
        total_steps = max(1, length // accumulate)
    loop = _Loop(
        method,
        loader,
        optimizer,
        schedule,
        device if isinstance(device, Backend) else Backend(None if device is None else str(device)),
        Checkpoints(checkpoint) if isinstance(checkpoint, str | PathLike) else checkpoint,
        monitor if monitor is not None else Monitor(),
        validation,
        settings=settings or {},
        total_steps=total_steps,
        accumulate=accumulate,
        max_grad_norm=max_grad_norm,
        seed=seed,
    )
    return loop.run(stop_after)


@dataclass
class _Loop:
    """One call of ``fit``: what it was given, and what changes from step to step."""

    method: Method
    loader: Loader
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float] | None
    backend: Backend
    saver: Checkpoints | None
    monitor: Monitor
    validation: Validation | None
    settings: Mapping[str, object]
    total_steps: int
    accumulate: int
    max_grad_norm: float | None
    seed: int

    def __post_init__(self) -> None:
        self.module = self.backend.prepare(self.method)
        # float16 gradients underflow without a scale; the other precisions have float32's range.
        self.scaler = torch.amp.GradScaler(self.backend.target.type, enabled=self.backend.precision == "float16")
        self.identity = self._identity()
        self.step, self.saved, self.skipped, self.skipped_in_a_row = 0, -1, 0, 0
        self.length, self.epoch, self.batch_size = steps_per_epoch(self.loader), 0, 0
        state = self.saver.load(settings=self.identity) if self.saver is not None else None
        if state is not None:
            self._restore(state)
        self.first = self.step
        self.monitor.resume(self.first)
        self.batches = batches_from(self.loader, self.first * self.accumulate, self.total_steps * self.accumulate)
        self.agreement, self.window = _Agreement(self.backend.target, self.total_steps), _Window()
        self.faults: list[tuple[int, Fault]] = []
        self.record: dict[str, float] = {}
        self.stop = StopWish()

    def run(self, stop_after: int | None) -> FitResult:
        """Train to the end, to ``stop_after``, or to a signal."""
        last = self.total_steps if stop_after is None else min(self.total_steps, max(stop_after, self.first))
        with self.stop, ExitStack() as stack:
            # The caller's generators come out as they went in.
            stack.enter_context(torch.random.fork_rng(devices=self.backend.held))
            stack.callback(self.batches.close)
            stack.enter_context(room_for(TRAINING_READERS if hasattr(self.loader, "workers") else 0))
            if self.step == 0:
                settle_norms(self.method, self._show)
            while self.step < last and not self.agreement.stopping:
                try:
                    batch = self._fetch()
                except Exception:
                    if self.stop.wished is None or world_size() > 1:
                        raise
                    break  # the signal reached the loader's workers too; nothing of this step was done
                self._train(batch)
                self._write(self._measure())
                if self.saver is not None and self.step < last and (self.agreement.saving or self.saver.due(self.step)):
                    self.agreement.settle()  # never save what a loss that is not finite has touched
                    self._save()
                if world_size() == 1 and self.stop.wished is not None:
                    self.agreement.stopping = True  # alone there is nobody to agree with
            self.agreement.settle()
            if self.saved != self.step:
                self._save()
        completed = self.step >= self.total_steps
        if self.validation is not None and completed:
            self.validation.leave_selected(self.method)
        self._obey()
        return FitResult(self.step, self.total_steps, completed, self.skipped, self.first, self.record)

    def _show(self, encoder: Encoder) -> None:
        """Feed an encoder the first batches, as training will see them, without learning."""
        with closing(batches_from(self.loader, 0, _SETTLING)) as batches, self.backend.autocast():
            for batch in islice(batches, _SETTLING):
                for view in self.backend.lay_out(place(self.method.views, batch, self.backend.target)).views:
                    encoder(encoder.prepare(view.data))

    # --- one step ---------------------------------------------------------------------------------------------------

    def _fetch(self) -> Batch:
        asked_s = time.perf_counter()
        batch = next(self.batches)
        self.window.waited_s += time.perf_counter() - asked_s
        self.faults.extend((self.step + 1, fault) for fault in batch.faults)
        if world_size() == 1:
            self._write_faults()
        return batch

    def _train(self, batch: Batch) -> None:
        """One optimiser step, of which ``batch`` is the first part."""
        self.epoch = self.step * self.accumulate // self.length if self.length else 0
        progress = StepsDone(self.step, self.total_steps, self.epoch)
        torch.manual_seed(Key(self.seed, self.step, rank()).bits())
        if self.schedule is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = self.schedule(self.step) * group.get("lr_scale", 1.0)
        self.method.on_step_begin(progress)
        self.optimizer.zero_grad(set_to_none=True)
        save_wish = self.saver is not None and rank() == 0 and self.saver.overdue()
        wishes = [float(self.stop.wished is not None), float(save_wish)]
        for part in range(self.accumulate):
            self._backward(self._fetch() if part else batch, part, wishes)
        applied = self._update()
        self.step += 1
        self.window.steps += 1
        self.skipped += not applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= _MOST_SKIPPED:
            raise DivergedError(
                f"the gradients of {_MOST_SKIPPED} steps in a row, up to step {progress.step}, are not finite; lower "
                "the learning rate, or use bfloat16 or float32"
            )
        self.method.on_step_end(progress._replace(step=self.step), applied)

    def _backward(self, batch: Batch, part: int, wishes: list[float]) -> None:
        """Add one batch's share to the gradients."""
        method, key = self.method, partial(Key, self.seed, self.step * self.accumulate + part)
        self._check_size(len(batch))
        batch = replace(place(method.views, batch, self.backend.target), key=key("forward"))
        for index, operation in enumerate(method.batch_operations):
            batch = operation(batch, key(f"batch operation {index}"))
        batch = self.backend.lay_out(batch)
        self.window.clips += len(batch) * len(batch.views)
        more = part < self.accumulate - 1
        with self.module.no_sync() if more and isinstance(self.module, DistributedDataParallel) else nullcontext():
            with self.backend.autocast():
                output = cast(LossOutput, self.module(batch))
            self.agreement.send(self.step, output.loss, wishes)
            self.scaler.scale(output.loss / self.accumulate).backward()  # type: ignore[no-untyped-call]
        self.window.add({"loss": output.loss, **output.logs}, weight=1 / self.accumulate)
        if self.validation is not None and self.step == self.first:
            self.validation.check_names(list(output.logs))

    def _check_size(self, size: int) -> None:
        """Raise DataError where processes would average gradients of unequal batches."""
        if world_size() > 1 and size != self.batch_size:
            if self.batch_size or len({*gather_objects(size)}) > 1:
                raise DataError(
                    f"batches must be equal on all processes and steps: step {self.step} has {size}, "
                    f"before it was {self.batch_size or 'another number elsewhere'}"
                )
            self.batch_size = size

    def _update(self) -> bool:
        """Let the optimiser take its step; False where a gradient was not finite and it took none."""
        self.scaler.unscale_(self.optimizer)
        self.method.on_gradients()
        applied = True
        if self.max_grad_norm is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
            applied = bool(torch.isfinite(norm))
            self.window.add({"grad_norm": norm}, weight=1.0)
        if applied or self.scaler.is_enabled():
            scale = self.scaler.get_scale()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            applied = self.scaler.get_scale() >= scale
        return applied

    # --- what is measured and written -------------------------------------------------------------------------------

    def _measure(self) -> dict[str, float]:
        """What the probe and the held-out videos say of the weights, where it is their turn."""
        found: dict[str, float] = {}
        probe, every = self.monitor.probe, self.monitor.probe_every
        if probe is not None and every is not None and self.step % every == 0 and rank() == 0:
            with eval_mode(self.method.encoder):
                probed = probe(self.method.encoder)
                found = {f"probe.{name}": float(value) for name, value in probed.items()}
        if self.validation is not None and self.validation.due(self.step, self.total_steps):
            self.agreement.settle()  # weights that a loss that is not finite has touched are never selected
            paused_s = time.perf_counter()
            found |= self.validation.run(self.method, self.step, backend=self.backend, seed=self.seed)
            self.window.start_s += time.perf_counter() - paused_s
        return found

    def _write(self, measured: Mapping[str, float]) -> None:
        """A record, when it is time for one or something was measured."""
        if self.step % self.monitor.log_every == 0 or self.step == self.total_steps:
            self._write_faults()
            lr = float(self.optimizer.param_groups[0]["lr"])
            self.record = {"step": self.step, "epoch": self.epoch, "lr": lr, **self.window.means()}
            self.record |= {**self.window.timing(), "skipped": self.skipped, "faults": self.monitor.faults, **measured}
            self.monitor.log(self.record)
            self.window = _Window()
        elif measured:
            self.monitor.log({"step": self.step, "epoch": self.epoch, **measured})

    def _write_faults(self) -> None:
        """Hand the faults of all processes to the monitor, which writes on rank 0 only."""
        for at, fault in sorted((entry for part in gather_objects(self.faults) for entry in part), key=lambda e: e[0]):
            self.monitor.fault(fault, step=at)
        self.faults.clear()

    def _save(self) -> None:
        # A finite loss can have gradients that are not: the weights tell one step before the next loss would.
        if not all(bool(torch.isfinite(p).all()) for p in self.method.parameters()):
            raise DivergedError(
                f"the weights are not finite after {self.step} of {self.total_steps} steps: training has diverged. "
                "They were not saved; lower the learning rate, lengthen the warm-up, or set max_grad_norm"
            )
        self.saved, self.agreement.saving = self.step, False
        if self.saver is None:
            return
        self._write_faults()
        memories = gather_objects([operation.state_dict() for operation in self.method.batch_operations])
        quarantine = gather_objects(sorted(getattr(self.loader, "quarantine", ())))
        state = {
            "step": self.step,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "batch_operations": memories,
            "quarantine": sorted({entry for part in quarantine for entry in part}),
            "skipped": self.skipped,
        }
        if self.validation is not None:
            state["validation"] = self.validation.state_dict()
        self.saver.save(state, settings=self.identity)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        memories = state["batch_operations"]
        if len(memories) == world_size():
            for operation, memory in zip(self.method.batch_operations, memories[rank()], strict=True):
                operation.load_state_dict(memory)
        elif any(memory for operations in memories for memory in operations):
            raise UsageError(
                f"the checkpoint holds the batch operations' memory of {len(memories)} processes, this run has "
                f"{world_size()}; resume with {len(memories)}"
            )
        if state["quarantine"] and hasattr(self.loader, "extend_quarantine"):
            self.loader.extend_quarantine(state["quarantine"])
        if self.validation is not None:
            self.validation.load_state_dict(state["validation"])
        self.step = self.saved = int(state["step"])
        self.skipped = int(state["skipped"])

    def _identity(self) -> dict[str, object]:
        """What makes a run what it is, as far as the loop can see it; compared before a checkpoint is used."""

        def plain(values: Mapping[str, object], *without: str) -> dict[str, object]:
            kept = {k: v for k, v in values.items() if k not in without}
            return {k: v for k, v in kept.items() if isinstance(v, bool | int | float | str | tuple)}

        # What the groups say counts, not only the defaults: weight decay stands there. Their rates move as training
        # goes.
        groups = {
            f"group {i}": {**plain(group, "lr", "initial_lr"), "n": len(group["params"])}
            for i, group in enumerate(self.optimizer.param_groups)
        }
        shapes = {name: list(p.shape) for name, p in self.method.named_parameters()}
        return {
            "method": type(self.method).__name__,
            "parameters": mapping_digest(shapes),
            "optimizer": {"class": type(self.optimizer).__name__, **plain(self.optimizer.defaults), **groups},
            "loop": {
                "total_steps": self.total_steps,
                "seed": self.seed,
                "precision": self.backend.precision,
                "accumulate": self.accumulate,
                "max_grad_norm": self.max_grad_norm,
            },
            "settings": dict(self.settings),
            **({} if self.validation is None else {"validation": self.validation.settings}),
        }

    def _obey(self) -> None:
        """Say what a signal stopped and how to go on, then let it do what it would have done."""
        if self.stop.wished is not None and rank() == 0:
            folder = None if self.saver is None else self.saver.folder
            kept = f"saved in {folder}; the same command goes on from there" if folder else "nothing was saved"
            log.warning("stopped by %s after %d of %d steps: %s", self.stop.name, self.step, self.total_steps, kept)
        self.stop.obey()


class _Agreement:
    """What all processes say at a step: their loss, a wish to stop, rank 0's clock for saving.

    On CUDA the numbers are read one step late, so that reading them does not stop the device.
    """

    def __init__(self, device: torch.device, total_steps: int) -> None:
        self.stopping = self.saving = False
        self._late, self._total_steps = device.type == "cuda", total_steps
        self._pending: tuple[int, Tensor, Any] | None = None

    def send(self, step: int, loss: Tensor, wishes: Sequence[float]) -> None:
        """Say this process's part, and read what has arrived. Raises DivergedError for a loss that is not finite."""
        loss = loss.detach().float()
        values = all_reduce_sum(torch.stack([loss, *(torch.full_like(loss, wish) for wish in wishes)]))
        if not self._late:
            self._read(step, values.tolist())
            return
        self.settle()
        host = values.to("cpu", non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._pending = (step, host, event)

    def settle(self) -> None:
        """Wait for what was sent last and read it. Raises DivergedError."""
        if self._pending is not None:
            step, host, event = self._pending
            self._pending = None
            event.synchronize()
            self._read(step, host.tolist())

    def _read(self, step: int, values: list[float]) -> None:
        loss, stop_wish, save_wish = values
        if not abs(loss) < float("inf"):
            raise DivergedError(
                f"the loss is {loss} at step {step} of {self._total_steps}: training has diverged. Nothing after the "
                "last checkpoint was saved; lower the learning rate, lengthen the warm-up, or set max_grad_norm"
            )
        self.stopping, self.saving = self.stopping or stop_wish > 0, self.saving or save_wish > 0


class _Window:
    """Sums since the last record; read once per record, so that logging does not stop the device."""

    def __init__(self) -> None:
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
