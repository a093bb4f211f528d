"""SwAV: balanced assignments to prototypes, and the prediction of each other's (Caron et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import Count, Positive, checked
from unreel.core.distributed import all_gather_with_grad, rank, world_size
from unreel.core.errors import UsageError
from unreel.core.modules import wide


@checked
@torch.no_grad()
def sinkhorn(
    scores: Tensor,
    *,
    epsilon: Positive = 0.05,
    iterations: Count = 3,
    others: Tensor | None = None,
    gather: bool = True,
) -> Tensor:
    """Soft assignments of the samples to K prototypes that use every prototype alike (Caron 2020, §3.1, eq. 3–5).

    Q = diag(u) exp(scores / ε) diag(v), after ``iterations`` rounds of Sinkhorn and Knopp: first every prototype gets
    an equal share of all samples, then every sample a total of 1. The last is exact, the first in the limit. In the
    log domain, so that a small ε neither overflows nor divides by zero; constants of the two steps cancel.

    Args:
        scores: (B, K) similarities of this process's samples with the prototypes.
        epsilon: > 0; the larger, the softer. 0.05 in the released settings.
        iterations: ≥ 1; 3.
        others: (M, K) further samples that take part, the same on all processes, such as a queue's.
        gather: balance over the samples of all processes.
    Returns: (B, K) in float32 at least, rows that sum to 1; no gradient.
    Raises: UsageError for other shapes, ε ≤ 0 or no iteration.
    """
    if scores.ndim != 2 or (others is not None and (others.ndim != 2 or others.shape[1] != scores.shape[1])):
        shape = None if others is None else tuple(others.shape)
        raise UsageError(f"scores (B, K) and others (M, K) are needed, got {tuple(scores.shape)} and {shape}")
    many = world_size() if gather else 1
    log_q = wide(scores)
    if others is not None:  # each process takes a share of them, so that they count once
        log_q = torch.cat([log_q, others[rank() :: many].to(log_q) if many > 1 else others.to(log_q)])
    log_q = log_q / epsilon
    for _ in range(iterations):
        totals = log_q.logsumexp(0, keepdim=True)
        if many > 1:
            totals = all_gather_with_grad(totals).logsumexp(0, keepdim=True)
        log_q = (log_q - totals).log_softmax(1)
    return log_q[: len(scores)].exp()


@checked
def swapped_prediction(
    scores: Sequence[Tensor], assignments: Mapping[int, Tensor], temperature: Positive = 0.1
) -> Tensor:
    """Cross-entropy of every view's prediction with the assignment of another one (Caron 2020, eq. 2 and 6).

    The mean over the assigned views, over the other views of each, and over samples.

    Args:
        scores: V times (B, K), similarities of projections and prototypes.
        assignments: of some of the views, (B, K) by their number; no gradient flows into them.
        temperature: > 0; 0.1.
    Returns: scalar, in float32 at least; log K where predictions are uniform.
    Raises: UsageError for fewer than two views, no assignment, shapes that differ, or a temperature that is not
        positive.
    """
    if len(scores) < 2 or not assignments or any(not 0 <= i < len(scores) for i in assignments):
        raise UsageError(
            f"swapped prediction needs two views and an assignment of at least one of them, got {len(scores)} views "
            f"and assignments of {sorted(assignments)}"
        )
    shapes = {tuple(t.shape) for t in (*scores, *assignments.values())}
    if len(shapes) != 1 or scores[0].ndim != 2:
        raise UsageError(f"scores and assignments need one shape (B, K), got {sorted(shapes)}")
    with torch.autocast(device_type=scores[0].device.type, enabled=False):
        log_p = [functional.log_softmax(wide(s) / temperature, 1) for s in scores]
        losses = [
            -(q.detach().to(log_p[j]) * log_p[j]).sum(1).mean()
            for i, q in assignments.items()
            for j in range(len(scores))
            if j != i
        ]
        return torch.stack(losses).mean()
