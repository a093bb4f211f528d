"""What a run would cost, before it starts: memory counted on the meta device, time measured on a few clips."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unreel.data.batch import Batch
from unreel.data.loader import ClipLoader
from unreel.methods.method import Method
from unreel.nn.count import count_macs
from unreel.nn.encoder import Encoder
from unreel.train.backend import Backend, Precision, autocast
from unreel.train.trainer import fit

# Forward passes of this many multiply–accumulates take a fraction of a second: enough to time, soon over.
_TIMED_MACS = 5e9
_LONG_S = 5.0


# Samples of a look at the data: enough to time reading, few enough to be over soon.
_READ = 8
# Training steps of so few samples tell what a step costs at all, and twice as many what a sample adds.
_FEW = 4


class StepCost(NamedTuple):
    """One optimiser step on this machine. ``memory_bytes``: weights, gradients, optimiser state and activations.

    Reading files is not in ``seconds``: ``read_seconds`` of a sample is spent beside the step, in the workers.
    """

    seconds: float
    memory_bytes: int
    activation_bytes: int
    macs_per_clip: int


def activation_bytes(module: nn.Module, inputs: Tensor) -> int:
    """Bytes that autograd keeps from one forward pass in training mode, each storage counted once.

    ``module`` and ``inputs`` may live on the meta device; then nothing is computed or allocated.
    """
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # a freed storage's address may be given to the next: hold them all
    own = {t.untyped_storage()._cdata for t in (*module.parameters(), *module.buffers())}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:  # a weight is saved as a view of itself
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(inputs)
    return sum(kept.values())


def estimate_step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    *,
    batch_size: int,
    num_views: int = 2,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
) -> StepCost:
    """Cost of a training step of ``batch_size`` videos with ``num_views`` clips each in one process.

    Args:
        method, optimizer: as they would be trained; neither is changed.
        batch_size, num_views: clips per step are their product.
        device, precision: where and how.
    """
    encoder, spec = method.encoder, method.encoder.input_spec
    target = torch.device(device)
    clips = batch_size * num_views
    shape = (spec.channels, max(spec.num_frames, spec.min_frames), spec.size_px, spec.size_px)

    meta = copy.deepcopy(encoder).to("meta").train()
    with autocast(torch.device("cpu"), "float32"):
        per_two = activation_bytes(meta, torch.empty((2, *shape), device="meta"))
    activations = per_two * clips // 2
    if precision != "float32":
        activations //= 2
    parameters = [p for p in method.parameters() if p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in parameters)
    states = 2 if isinstance(optimizer, torch.optim.AdamW) else 1

    macs = count_macs(encoder, shape)
    timed = int(max(1, min(clips, _TIMED_MACS // max(1, macs))))
    seconds = _time(copy.deepcopy(encoder).to(target).train(), (timed, *shape), target, precision) * clips / timed
    return StepCost(seconds, weights * (2 + states) + activations, activations, macs)


def read_samples(loader: ClipLoader) -> tuple[Batch, float]:
    """The first samples of a run, read in this process, and the seconds that each took.

    Raises: DataError where they cannot be read.
    """
    count = min(_READ, loader.batch_size)
    start = time.perf_counter()
    batch = loader.first(count)
    return batch, (time.perf_counter() - start) / count


def time_training(
    method: Method, optimizer: torch.optim.Optimizer, loader: ClipLoader, backend: Backend
) -> float | None:
    """Seconds of a training step on this process's share of the batch, views and optimiser included.

    Copies are trained, on the run's first samples: nothing that was given changes. What a step costs at all and what a
    sample adds to it are told apart by two sizes, and the batch's own cost is drawn from them.
    Returns: None where the batch is too small for two sizes.
    """
    local = loader.batch_size // loader.world_size
    sizes = [_FEW, 2 * _FEW] if local > 2 * _FEW else [local]
    if local < 2:
        return None
    seconds = []
    for size in sizes:
        trained, its_optimizer = copy.deepcopy((method, optimizer))
        batch, times = loader.first(size), [0.0]

        def batches(batch: Batch = batch, times: list[float] = times) -> Iterator[Batch]:
            while True:
                times.append(time.perf_counter())
                yield copy.deepcopy(batch)

        fit(trained, batches(), its_optimizer, total_steps=3, device=backend)
        times.append(time.perf_counter())
        seconds.append(min(times[-1] - times[-2], times[-2] - times[-3]))
    if len(seconds) == 1:
        return seconds[0]
    each = max(seconds[1] - seconds[0], 0.0) / _FEW
    return max(seconds[0] - _FEW * each, 0.0) + local * each


def seconds_per_step(step: float, read: float, *, samples: int, workers: int, device: torch.device) -> float:
    """What a step takes with its reading: side by side as far as workers and cores go, one after the other without.

    Args:
        step: seconds of the computation. read: seconds of reading one sample. samples: of this process.
    """
    if workers == 0:
        return step + samples * read
    beside = max(step, samples * read / workers)
    if device.type != "cpu":
        return beside
    cores = os.cpu_count() or 1
    return max(beside, (step * min(torch.get_num_threads(), cores) + samples * read) / cores)


def _time(encoder: Encoder, shape: tuple[int, ...], device: torch.device, precision: Precision) -> float:
    """Seconds of a forward and backward pass. The last counts, as the first warms up (which a long one outweighs)."""
    inputs = torch.zeros(shape, device=device)
    seconds = 0.0
    while seconds < _LONG_S:
        _synchronise(device)
        start = time.perf_counter()
        with autocast(device, precision):
            loss: Any = encoder(inputs).float().square().mean()
        loss.backward()
        _synchronise(device)
        elapsed = time.perf_counter() - start
        if seconds or elapsed > _LONG_S:
            return elapsed
        seconds = elapsed
    return seconds


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
