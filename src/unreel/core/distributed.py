"""Collectives that are no-ops in one process, so that the same line serves one process and many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from unreel.core.errors import UnreelError

T = TypeVar("T")

_alone: ContextVar[bool] = ContextVar("alone", default=False)


def is_distributed() -> bool:
    """True when a process group of more than one process has been started."""
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process computes as if it were the only one: every collective here is a no-op."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


class _AllGather(torch.autograd.Function):
    """Forward: the rows of all ranks in rank order. Backward: a row's gradient, summed over the ranks that used it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # A reduce-scatter would move half as much, but gloo has none for every dtype and these are projections: small.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        first = rank() * ctx.rows
        return total[first : first + ctx.rows]


def all_gather_with_grad(x: Tensor) -> Tensor:
    """Rows of every process in rank order, (W·B, ...), through which gradient flows back to every process.

    A detached gather would leave each process with the gradient of its own rows as anchors only, and lose their part
    as other processes' negatives.

    Args:
        x: (B, ...), the same shape on every rank.
    Returns: (W·B, ...); ``x`` itself in one process.
    """
    if not is_distributed():
        return x
    gathered: Tensor = _AllGather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over processes, detached; a new tensor. ``x`` itself in one process."""
    if not is_distributed():
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def all_reduce_mean(x: Tensor) -> Tensor:
    """Mean over processes, detached; ``x`` itself in one process."""
    return all_reduce_sum(x) / world_size() if is_distributed() else x


def gather_objects(value: T) -> list[T]:
    """One picklable value per process, in rank order, on every process. For small things: it pickles."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(work: Callable[[], T]) -> T:
    """What ``work`` returns on rank 0, which alone does it. Its UnreelError is raised everywhere: none waits."""
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [work()]
        except UnreelError as error:
            box = [error]
    if is_distributed():
        dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], UnreelError):
        raise box[0]
    result: T = box[0]
    return result


def barrier() -> None:
    """Wait for every process."""
    if is_distributed():
        dist.barrier()
