"""Controls: what a score means is seen beside what needs no learning.

``random-init`` is the same net with fresh weights. Its batch norms take off a mean of 0 and divide by a variance of 1,
which no layer has. A part of what training changes is therefore nothing learned: the statistics have settled.
``first-weights`` has that part and no more, the same fresh weights with the statistics of the training part.
``frame-statistics`` needs no net.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unreel.core.digests import mapping_digest
from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.core.keys import Key
from unreel.data.batch import Fault
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import Encoder, InputSpec, StageInfo
from unreel.nn.registry import ENCODERS, create_encoder
from unreel.protocols.clips import ClipSource
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.features import Embeddings, evaluation_mode
from unreel.protocols.store import TableKey, encoder_digest
from unreel.tasks.folds import folds_of
from unreel.tasks.task import Task

BASELINES = ("random-init", "first-weights", "frame-statistics")
USUAL_BASELINES = ("random-init", "first-weights")
# A mean over this many sources is known to a fraction of what differs from one training step to the next.
_SETTLING_SOURCES = 256
# Clips per pass, each by their pixels and never by the device, as batches are a part of the result.
_SETTLING_PIXELS = 16 * 16 * 112 * 112
_SETTLING_CLIPS = (8, 64)

T = TypeVar("T")


class NoControlError(UsageError):
    """There is no way to give this net fresh weights."""


def controls(
    encoder: Encoder, names: Sequence[str], task: Task, plan: ClipPlan, *, seed: int = 0, compute: Compute = USUAL
) -> tuple[dict[str, Encoder], list[str]]:
    """The controls of an encoder by name, and notes on those that there is no need for, or that cannot be.

    Args:
        names: of ``BASELINES``. plan: the encoder's test clips of the task, of which ``first-weights`` sees some.
    Raises: UsageError for an unknown name.
    """
    for name in names:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    found: dict[str, Encoder] = {}
    notes: list[str] = []
    asked = [name for name in USUAL_BASELINES if name in names]
    try:
        found |= {"random-init": random_init(encoder, seed=seed)} if "random-init" in asked else {}
        if "first-weights" in asked and batch_norms(encoder):
            found["first-weights"] = first_weights(encoder, task, plan, seed=seed, compute=compute)
        elif "first-weights" in asked:
            notes.append("first-weights: the net keeps no batch statistics that could settle, so it equals random-init")
    except NoControlError as error:
        notes.append(f"{' and '.join(asked)}: {error}")
    if "frame-statistics" in names:
        found["frame-statistics"] = FrameStatistics(encoder.input_spec)
    return found, notes


def random_init(encoder: Encoder, *, seed: int = 0) -> Encoder:
    """The same architecture with fresh weights, a function of ``seed`` alone.

    An architecture that can be built with fresh weights is built again with its arguments: a registered one, or any
    that takes ``pretrained``. Of any other, a copy has every module reset.
    Raises: NoControlError when the copy holds parameters that no module knows how to reset.
    """
    draw = Key(seed, "random-init").bits()
    if encoder.architecture in ENCODERS or (encoder.architecture and "pretrained" in encoder.arguments):
        arguments: dict[str, Any] = dict(encoder.arguments)
        fresh = create_encoder(encoder.architecture, seed=draw, **arguments)
        shapes = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
        if shapes == {name: tensor.shape for name, tensor in encoder.state_dict().items()}:
            fresh.input_spec = encoder.input_spec
            return fresh.eval()
    fresh = copy.deepcopy(encoder)
    known: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(draw)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                device = next((p.device for p in module.parameters(recurse=False)), torch.device("cpu"))
                module.to("cpu")  # drawn where the generator is, so that the device does not change the weights
                reset()
                module.to(device)
                known.update(id(p) for p in module.parameters(recurse=False))
    left = [name for name, p in fresh.named_parameters() if id(p) not in known]
    if left:
        name = encoder.architecture or type(encoder).__name__
        raise NoControlError(
            f"no control with fresh weights: {len(left)} parameters of {name} cannot be drawn again, such as "
            f"{left[0]}; register the architecture, or give its factory an argument pretrained, which builds it with "
            "fresh weights when it is False"
        )
    return fresh.eval()


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """The norms inside a module that keep statistics of the batches they saw."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@torch.no_grad()
def settle(module: nn.Module, batches: Iterable[T], run: Callable[[T], object]) -> None:
    """Let the batch statistics inside a module become those of ``batches``, each weighing the same; nothing is learned.

    The norms are in training mode meanwhile; everything else is in the mode that it is found in.

    Args:
        run: passes one batch through the module.
    Raises: DataError without a batch.
    """
    norms = batch_norms(module)
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    count = 0
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for a plain mean
        norm.train()
    try:
        for batch in batches:
            run(batch)
            count += 1
    finally:
        for norm, momentum, training in before:
            norm.momentum = momentum
            norm.train(training)
            # A number of steps that were never made would tell two equal nets apart.
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked.zero_()
    if norms and not count:
        raise DataError("batch statistics need a batch of at least two clips to settle")


def first_weights(encoder: Encoder, task: Task, plan: ClipPlan, *, seed: int = 0, compute: Compute = USUAL) -> Encoder:
    """The net of ``random_init`` with its batch statistics settled on the task's training part, labels unseen.

    They are means over the test clips of up to 256 training sources, chosen by ``seed``. A feature store keeps them.
    Protocols that train have no such control: their steps settle the statistics themselves.
    """
    fresh = random_init(encoder, seed=seed)
    source = task.clips(plan, decoder=compute.decoder)
    rows = training_rows(task, source)
    key = Key(seed, "first weights")
    rows = sorted(rows, key=lambda row: key.child(source.ids[row]).uniform())[:_SETTLING_SOURCES]
    store = compute.features
    if store is None:
        _settle_encoder(fresh, source, rows, compute)
        return fresh
    kept = TableKey(encoder_digest(fresh), source.digest, "batch statistics")
    which = mapping_digest([source.source(row) for row in rows])
    with store.open(kept) as table:
        known = table.get([which])
        if which not in known:
            _settle_encoder(fresh, source, rows, compute)
            table.put({which: torch.cat(_statistics(fresh)).float().cpu().numpy()[None]})
            return fresh
    own = _statistics(fresh)
    ends = np.cumsum([len(tensor) for tensor in own])
    for tensor, values in zip(own, np.split(known[which][0], ends[:-1]), strict=True):
        tensor.copy_(torch.from_numpy(values))
    return fresh


def training_rows(task: Task, source: ClipSource) -> list[int]:
    """Which rows of a task's clips are in its training part: found out with vectors that say nothing.

    With folds every row is in one of the training parts. Statistics are then those of all rows: one net serves all
    folds, as a frozen encoder does, and it has seen the test samples without their labels, as pre-training may have.
    """
    ids = np.array(source.ids)
    nothing = np.zeros((len(ids), 2, 1), np.float32)
    everything = Embeddings(
        vectors=nothing[:, 0],
        ids=ids,
        labels=None if source.labels is None else np.array(source.labels),
        groups=None if source.groups is None else np.array(source.groups),
        faults=(),
        per_view=nothing,
        rows=np.arange(len(ids)),
        sources=ids,
    )
    trained = [fold.parts(everything).train.ids for fold in folds_of(task)]
    known = np.logical_or.reduce([np.isin(ids, [] if found is None else found) for found in trained])
    return [int(row) for row in np.flatnonzero(known)]


def _statistics(module: nn.Module) -> list[Tensor]:
    return [t for norm in batch_norms(module) for t in (norm.running_mean, norm.running_var) if t is not None]


def _settle_encoder(encoder: Encoder, source: ClipSource, rows: Sequence[int], compute: Compute) -> None:
    weight = next(encoder.parameters())
    with evaluation_mode(encoder, compute.device) as device:
        settle(
            encoder,
            _settling_batches(source, rows, compute.workers or 0),
            lambda clips: encoder(encoder.prepare(clips.to(device)).to(weight.dtype)),
        )


def _settling_batches(source: ClipSource, rows: Sequence[int], workers: int) -> Iterator[Tensor]:
    """Clips (B, T, S, S, C) of equal batches; a rest is left out unless it is all there is."""
    waiting: list[Tensor] = []
    full = False
    for views in source.read(list(rows), workers=workers):
        if isinstance(views, Fault):
            continue
        if waiting and waiting[0].shape[1:] != views.shape[1:]:
            waiting = []
        waiting.append(views)
        least, most = _SETTLING_CLIPS
        size = max(least, min(most, _SETTLING_PIXELS // views[0, ..., 0].numel()))
        while sum(map(len, waiting)) >= size:
            together = torch.cat(waiting)
            yield together[:size]
            waiting, full = [together[size:]], True
    if not full and sum(map(len, waiting)) > 1:
        yield torch.cat(waiting)


class FrameStatistics(Encoder):
    """46 plain numbers per clip: colour, contrast, layout, edges, brightness histogram and change over time.

    No weights. What a probe reaches on these is what needs no representation at all. Values are those of the pixels in
    [0, 1], before the normalisation that other encoders apply. Channels must be 1 (grey) or 3.

    Order: mean per channel (3), spread per channel (3), mean per channel in a 2 × 2 grid (12), spread over time of the
    frame mean per channel (3), mean absolute change between frames per channel (3), its spread (3), the same change of
    brightness in a 2 × 2 grid (4), change of brightness over 2 and 4 frames (2), horizontal and vertical edges (2),
    brightness histogram (8), products of channels around their means (3).
    """

    _BINS = 8

    def __init__(self, input_spec: InputSpec | None = None) -> None:
        super().__init__()
        base = input_spec if input_spec is not None else InputSpec()
        self.num_features = 46
        self.input_spec = InputSpec(base.num_frames, base.stride_frames, base.size_px)
        self.stage_info = {"statistics": StageInfo(self.num_features, 1, 1)}
        self.architecture = "frame-statistics"

    def forward_features(self, x: Tensor, names: object = None) -> dict[str, Tensor]:
        """(B, 3, T, H, W) in [0, 1] to {"statistics": (B, 46, 1, 1, 1)}."""
        if x.shape[1] != 3:
            raise UsageError(f"frame statistics need 3 channels, got {x.shape[1]}")
        x = x.float()
        batch, _, frames, _, _ = x.shape
        luma = x.mean(1)
        grid = nn.functional.adaptive_avg_pool2d
        mean, spread = x.mean((2, 3, 4)), x.std((2, 3, 4), correction=0)
        step = (x[:, :, 1:] - x[:, :, :-1]).abs() if frames > 1 else torch.zeros_like(x)
        still = torch.zeros_like(luma)
        changes = [(luma[:, lag:] - luma[:, :-lag]).abs() if frames > lag else still for lag in (2, 4)]
        edges = [(luma[..., 1:] - luma[..., :-1]).abs(), (luma[..., 1:, :] - luma[..., :-1, :]).abs()]
        bins = (luma * self._BINS).long().clamp(0, self._BINS - 1).flatten(1)
        counts = torch.zeros(batch, self._BINS, device=x.device).scatter_add_(1, bins, torch.ones_like(bins).float())
        centred = (x - mean[:, :, None, None, None]).flatten(2)
        products = torch.einsum("bcn,bdn->bcd", centred, centred) / centred.shape[2]
        parts = [
            mean,
            spread,
            grid(x.mean(2), 2).flatten(1),
            x.mean((3, 4)).std(2, correction=0),
            step.mean((2, 3, 4)),
            step.std((2, 3, 4), correction=0),
            grid(step.mean((1, 2)), 2).flatten(1),
            *(found.mean((1, 2, 3))[:, None] for found in (*changes, *edges)),
            counts / bins.shape[1],
            torch.stack([products[:, 0, 1], products[:, 0, 2], products[:, 1, 2]], 1),
        ]
        return {"statistics": torch.cat(parts, 1)[:, :, None, None, None]}
