"""Batch normalisation over all processes, on every device.

torch's own ``SyncBatchNorm`` refuses CPU tensors, so a two-process run could not be tested without GPUs. This one
delegates to torch's on CUDA and computes the same thing with plain collectives elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from unreel.core.distributed import is_distributed


class _Statistics(torch.autograd.Function):
    """Normalise (B, C, ...) with the mean and variance of all processes' rows; ranks may hold unequal numbers."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        axes = [0, *range(2, x.ndim)]
        view = [1, -1] + [1] * (x.ndim - 2)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # half inputs are summed in float32
        rows = x.numel() // x.shape[1]
        mean = wide.mean(axes) if rows else wide.new_zeros(x.shape[1])
        deviation = (wide - mean.view(view)).square().sum(axes)
        own = torch.cat([mean, deviation, mean.new_tensor([float(rows)])])
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        table = torch.stack(parts)
        means, deviations, counts = table[:, : len(mean)], table[:, len(mean) : -1], table[:, -1:]
        # Chan's pairwise update: exact for unequal counts and free of the cancellation in E[x²] − E[x]².
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (deviations + counts * (means - mean).square()).sum(0) / count
        inverse = torch.rsqrt(variance + eps)
        out = (wide - mean.view(view)) * inverse.view(view)
        if weight is not None:
            out = out * weight.to(out.dtype).view(view)
        if bias is not None:
            out = out + bias.to(out.dtype).view(view)
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.bias_dtype, ctx.axes, ctx.view = None if bias is None else bias.dtype, axes, view
        ctx.mark_non_differentiable(mean, variance, count)
        return out.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor, _mean: Tensor, _variance: Tensor, _count: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        view, axes = ctx.view, ctx.axes
        wide = gradient.to(mean.dtype)
        normal = (x.to(mean.dtype) - mean.view(view)) * inverse.view(view)
        sum_gradient, sum_product = wide.sum(axes), (wide * normal).sum(axes)
        total = torch.cat([sum_gradient, sum_product])
        dist.all_reduce(total)  # every row moved the mean and the variance of all ranks
        mean_gradient, mean_product = (total / count).chunk(2)
        scale = inverse if weight is None else inverse * weight.to(mean.dtype)
        dx = (wide - mean_gradient.view(view) - normal * mean_product.view(view)) * scale.view(view)
        # weight and bias get this rank's part only; DDP adds the parts, as for every other parameter
        dweight = None if weight is None else sum_product.to(weight.dtype)
        dbias = None if ctx.bias_dtype is None else sum_gradient.to(ctx.bias_dtype)
        return dx.to(x.dtype), dweight, dbias, None


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
        out, mean, variance, count = _Statistics.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked.add_(1)
                rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                unbiased = variance * (count / (count - 1).clamp(min=1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        normalised: Tensor = out
        return normalised


def _converted(norm: _BatchNorm) -> SyncBatchNorm:
    new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    # The very same parameters and buffers: an optimiser built before still holds them.
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    new.training = norm.training
    return new


def synchronise(module: nn.Module) -> nn.Module:
    """Make every BatchNorm1d/2d/3d inside ``module`` normalise over all processes; state-dict names stay.

    Children are replaced in place, keeping their parameters; returns ``module``, or its replacement when it is a
    batch norm itself. Needed wherever a loss compares samples across processes: otherwise each rank normalises by its
    own part, and the network can tell ranks apart (CVRL synchronises backbone and head, cvrl.md §2).
    """
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        return _converted(module)
    for name, child in module.named_children():
        replacement = synchronise(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module
