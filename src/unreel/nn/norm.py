"""Batch normalisation over all processes, on every device; and of several calls in one.

torch's own ``SyncBatchNorm`` refuses CPU tensors, so a two-process run could not be tested without GPUs. This one
delegates to torch's on CUDA and computes the same thing with plain collectives elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from unreel.core.distributed import is_distributed
from unreel.core.errors import UsageError
from unreel.core.modules import wide


class _Statistics(torch.autograd.Function):
    """Normalise (B, C, ...) with the mean and variance of all processes' rows; ranks may hold unequal numbers.

    The batch is ``parts`` equal consecutive ones, each with its own statistics; those of all parts travel together.
    Returns the output, and (parts, C) means and unbiased variances.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, parts: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        axes = [1, *range(3, x.ndim + 1)]
        view = [parts, 1, channels] + [1] * (x.ndim - 2)
        values = wide(x).view(parts, x.shape[0] // parts, *x.shape[1:])
        rows = x.numel() // (parts * channels)
        mean = values.mean(axes) if rows else values.new_zeros(parts, channels)
        deviation = (values - mean.view(view)).square().sum(axes)
        own = torch.cat([mean, deviation, mean.new_full((parts, 1), float(rows))], 1)
        ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(ranks, own)
        table = torch.stack(ranks)
        means, deviations, counts = table[..., :channels], table[..., channels:-1], table[..., -1:]
        # Chan's pairwise update: exact for unequal counts and free of the cancellation in E[x²] − E[x]².
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (deviations + counts * (means - mean).square()).sum(0) / count
        inverse = torch.rsqrt(variance + eps)
        # Per row, so that the result is no view: what follows may write into it (nn.ReLU(inplace=True)).
        each, row = x.shape[0] // parts, [x.shape[0], *view[2:]]
        shift, scale = (t.repeat_interleave(each, 0).view(row) for t in (mean, inverse))
        out = (values.flatten(0, 1) - shift) * scale
        if weight is not None:
            out = out * weight.to(out.dtype).view(view[2:])
        if bias is not None:
            out = out + bias.to(out.dtype).view(view[2:])
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.bias_dtype, ctx.axes, ctx.view = None if bias is None else bias.dtype, axes, view
        unbiased = variance * (count / (count - 1).clamp(min=1))
        ctx.mark_non_differentiable(mean, unbiased)
        return out.to(x.dtype), mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, _mean: Tensor, _variance: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        view, axes = ctx.view, ctx.axes
        shape = (view[0], x.shape[0] // view[0], *x.shape[1:])
        wide = gradient.to(mean.dtype).view(shape)
        normal = (x.to(mean.dtype).view(shape) - mean.view(view)) * inverse.view(view)
        sum_gradient, sum_product = wide.sum(axes), (wide * normal).sum(axes)
        total = torch.cat([sum_gradient, sum_product], 1)
        dist.all_reduce(total)  # every row moved the mean and the variance of all ranks
        mean_gradient, mean_product = (total / count).chunk(2, 1)
        scale = inverse if weight is None else inverse * weight.to(mean.dtype)
        dx = (wide - mean_gradient.view(view) - normal * mean_product.view(view)) * scale.view(view)
        # weight and bias get this rank's part only; DDP adds the parts, as for every other parameter
        dweight = None if weight is None else sum_product.sum(0).to(weight.dtype)
        dbias = None if ctx.bias_dtype is None else sum_gradient.sum(0).to(ctx.bias_dtype)
        return dx.flatten(0, 1).to(x.dtype), dweight, dbias, None, None


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose training statistics cover the global batch; plain batch norm in one process and in eval.

    Input (B, C, ...); B may differ between ranks. Running variance is unbiased over the global count, as torch's.
    Not a subclass of torch's, which DDP refuses on CPU.
    """

    process_group = None  # all processes; torch's forward asks

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm expects (B, C, ...), got {input.dim()}-D input")

    def _check_non_zero_input_channels(self, input: Tensor) -> None:
        if input.size(1) == 0:
            raise ValueError("batch norm expects at least one channel")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...) over the global batch in training, with the running statistics in eval."""
        if not (self.training and is_distributed()):
            return super().forward(input)
        if input.device.type == "cuda":
            return nn.SyncBatchNorm.forward(self, input)  # type: ignore[arg-type]
        self._check_input_dim(input)
        out, mean, variance = _Statistics.apply(input, self.weight, self.bias, self.eps, 1)  # type: ignore[no-untyped-call]
        running = _running(self)
        if running is not None:
            running.batches.add_(1)
            rate = 1.0 / float(running.batches) if self.momentum is None else self.momentum
            running.mean.lerp_(mean[0].to(running.mean.dtype), rate)
            running.variance.lerp_(variance[0].to(running.mean.dtype), rate)
        normalised: Tensor = out
        return normalised


class _Running(NamedTuple):
    mean: Tensor
    variance: Tensor
    batches: Tensor


def _running(norm: _BatchNorm) -> _Running | None:
    """A norm's buffers; None where it keeps no statistics."""
    mean, variance, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if not norm.track_running_stats or mean is None or variance is None or batches is None:
        return None
    return _Running(mean, variance, batches)


def _converted(norm: _BatchNorm) -> SyncBatchNorm:
    new = SyncBatchNorm(norm.num_features)
    # The very same parameters and buffers: an optimiser built before still holds them.
    vars(new).update(vars(norm))
    return new


def synchronise(module: nn.Module) -> nn.Module:
    """Make every BatchNorm1d/2d/3d inside ``module`` normalise over all processes; state-dict names stay.

    Children are replaced in place, keeping their parameters; returns ``module``, or its replacement when it is a
    batch norm itself. Needed wherever a loss compares samples across processes: otherwise each rank normalises by its
    own part, and the network can tell ranks apart (CVRL synchronises backbone and head, docs/methods/cvrl.md, Head and
    loss).
    """
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return _converted(module)
    for name, child in module.named_children():
        replacement = synchronise(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


class _Seen(NamedTuple):
    """Statistics of one pass through a norm: a row for each of ``calls``, (len(calls), C), variances unbiased."""

    calls: tuple[int, ...]
    use: int  # how often the norm had been used in these calls before
    mean: Tensor
    variance: Tensor


# A norm's unfinished round, between the contexts of one step: how many calls, and what it has seen of them. Not part of
# the model: no state dict, no copy holds it.
_ROUNDS: WeakKeyDictionary[_BatchNorm, tuple[int, list[_Seen]]] = WeakKeyDictionary()


@functools.lru_cache(maxsize=256)
def _shares(rate: float, places: tuple[int, ...], total: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What the ``places``-th of ``total`` statistics weigh in an exponential average after the last of them."""
    return torch.tensor([rate * (1 - rate) ** (total - 1 - p) for p in places], device=device, dtype=dtype)


@torch.no_grad()
def _finish(norm: _BatchNorm, seen: Sequence[_Seen]) -> None:
    """Move the running statistics as the calls would have, one by one in their order."""
    running = _running(norm)
    assert running is not None
    order = sorted((call, s.use) for s in seen for call in s.calls)
    place = {key: i for i, key in enumerate(order)}
    total, count = len(order), int(running.batches)  # the count with this round's
    # Without momentum, a plain average over everything since the start.
    keep = (count - total) / count if norm.momentum is None else (1 - norm.momentum) ** total
    running.mean.mul_(keep)
    running.variance.mul_(keep)
    for s in seen:
        if norm.momentum is None:
            share = running.mean.new_full((len(s.calls),), 1 / count)
        else:
            places = tuple(place[call, s.use] for call in s.calls)
            share = _shares(float(norm.momentum), places, total, running.mean.device, running.mean.dtype)
        running.mean.add_(share @ s.mean)
        running.variance.add_(share @ s.variance)


class _SeparateForward:
    """A norm's ``forward`` while ``separate_calls`` is open: normalise every part by itself, keep its statistics."""

    def __init__(self, norm: _BatchNorm, calls: tuple[int, ...]) -> None:
        self.norm = norm
        self.calls = calls
        self.seen: list[_Seen] = []
        self.uses = 0

    def __call__(self, input: Tensor) -> Tensor:
        """Normalise (B, C, ...), B a multiple of the number of calls."""
        norm, parts = self.norm, len(self.calls)
        if not norm.training:
            return type(norm).forward(norm, input)
        norm._check_input_dim(input)  # type: ignore[no-untyped-call]
        if input.shape[0] % parts:
            raise UsageError(
                f"separate_calls holds {parts} calls, but a batch norm inside was given {input.shape[0]} rows, which "
                f"are not {parts} equal parts"
            )
        running = _running(norm)
        if isinstance(norm, SyncBatchNorm) and is_distributed():
            out, mean, variance = _Statistics.apply(input, norm.weight, norm.bias, norm.eps, parts)  # type: ignore[no-untyped-call]
        else:
            like = (input if norm.weight is None else norm.weight) if running is None else running.mean
            mean, variance = like.new_zeros(2, parts, norm.num_features)
            # Momentum 1 leaves in the two rows the part's own mean and unbiased variance.
            pieces = [
                functional.batch_norm(part, m, v, norm.weight, norm.bias, True, 1.0, norm.eps)
                for part, m, v in zip(input.chunk(parts), mean, variance, strict=True)
            ]
            out = torch.cat(pieces)
        if running is not None:
            dtype = running.mean.dtype
            self.seen.append(_Seen(self.calls, self.uses, mean.to(dtype), variance.to(dtype)))
        self.uses += 1
        normalised: Tensor = out
        return normalised

    def commit(self, num_calls: int) -> None:
        """Count the calls, and when all of a round have been made, move the running statistics."""
        running = _running(self.norm)
        if not self.seen or running is None:
            return
        running.batches.add_(len(self.calls) * self.uses)
        made_of, seen = _ROUNDS.pop(self.norm, (num_calls, []))
        common = {call for s in seen for call in s.calls} & set(self.calls)
        if common and common != set(self.calls) and made_of == num_calls:
            raise UsageError(
                f"separate_calls: calls {sorted(common)} of {num_calls} were made before in this round, the others of "
                f"{list(self.calls)} were not; contexts together must cover each call once"
            )
        if common or made_of != num_calls:  # a step that broke off between its contexts
            seen = []
        seen = [*seen, *self.seen]
        if len({call for s in seen for call in s.calls}) == num_calls:
            _finish(self.norm, seen)
        else:
            _ROUNDS[self.norm] = num_calls, seen


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """While open, batch norms inside ``module`` normalise by their batch as ever; their running statistics stay.

    For clips of another kind than those that the module will see in evaluation: they are normalised by themselves, and
    leave no trace in what stands for the data later. Works inside and around ``separate_calls``.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [(m.momentum, None if m.num_batches_tracked is None else m.num_batches_tracked.clone()) for m in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)


@contextmanager
def separate_calls(module: nn.Module, calls: Sequence[int], num_calls: int) -> Iterator[None]:
    """While open, the batch norms inside ``module`` treat one training batch as several calls made one by one.

    Every batch norm (BatchNorm1d, 2d, 3d and this module's SyncBatchNorm) sees its batch as ``len(calls)`` equal
    consecutive parts and normalises each by its own statistics (with SyncBatchNorm: over all processes). Running
    statistics end as if the parts had been the calls number ``calls`` out of ``num_calls`` consecutive ones: they move
    when contexts together covering 0 … num_calls − 1 have been left, in the order of the calls, whatever the order of
    the contexts. ``num_batches_tracked`` grows by ``len(calls)`` in each. In evaluation nothing changes.

    So a method whose release calls its encoder many times per step (docs/methods/tcgl.md, Batch norm)
    runs all clips of one length together, and gets the same outputs, gradients and buffers.

    A context that is left by an exception leaves no trace in the buffers; a step that broke off between its contexts
    is forgotten when its first calls are made again. Passes replayed in the backward pass (activation checkpointing)
    happen outside of the context, and are not covered.

    Args:
        calls: which calls the parts are, in the batch's order; distinct, each in [0, num_calls).
        num_calls: calls of a whole round, e.g. 15 for TCGL's 3 snippets and 12 frame-sets.

    Raises: UsageError for calls that are repeated or out of range, a context inside a context, a batch that is not
    ``len(calls)`` equal parts, contexts that overlap, and torch's own SyncBatchNorm inside ``module``.
    """
    calls = tuple(int(call) for call in calls)
    if not calls or len(set(calls)) != len(calls) or min(calls) < 0 or max(calls) >= num_calls:
        raise UsageError(
            f"separate_calls takes distinct numbers of calls between 0 and {num_calls - 1} (num_calls={num_calls}), "
            f"got {list(calls)}"
        )
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    for norm in norms:
        if isinstance(norm, nn.SyncBatchNorm):
            raise UsageError(
                "separate_calls cannot split torch's SyncBatchNorm; convert with unreel.nn.norm.synchronise"
            )
        if "forward" in vars(norm):
            raise UsageError("separate_calls is open on this module already; contexts cannot be inside each other")
    forwards = [_SeparateForward(norm, calls) for norm in norms]
    try:
        for forward in forwards:
            vars(forward.norm)["forward"] = forward  # found before the class's, by Module.__call__ too
        yield
    finally:
        for norm in norms:
            vars(norm).pop("forward", None)
    for forward in forwards:
        forward.commit(num_calls)
