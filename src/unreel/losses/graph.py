"""Contrast of nodes: each node of a graph with itself in another view of the graph, against the graph's other nodes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unreel.core.checks import Positive, checked
from unreel.core.errors import UsageError
from unreel.core.modules import wide
from unreel.losses.contrastive import l2_normalize


@checked
def node_info_nce(u: Tensor, v: Tensor, temperature: Positive = 0.5) -> Tensor:
    """InfoNCE over the nodes of two views of a graph (GRACE, Zhu et al. 2020, eq. 1–2; TCGL).

    Source: docs/methods/tcgl.md, Contrast.

    The positive of a node is the same node in the other view; its negatives are the N − 1 other nodes of each view.
    Graphs of a batch never meet, so several processes need no gather.

    Args:
        u, v: projected nodes of the two views, (N, D) or (G, N, D) for G graphs, any scale (normalised here). Computed
            in float32 at least, whatever the inputs and the autocast state.
        temperature: > 0; TCGL uses 0.5.
    Returns: scalar, the mean over nodes, both directions and graphs. It is log(2N − 1) when all nodes coincide, and
        exactly 0 for N = 1.
    Raises: UsageError if shapes differ, are empty, or temperature <= 0.
    """
    if u.shape != v.shape or u.ndim not in (2, 3) or 0 in u.shape[:-1]:
        raise UsageError(
            f"two views need equal shapes (N, D) or (G, N, D) with at least one node, got {tuple(u.shape)} and "
            f"{tuple(v.shape)}"
        )
    with torch.autocast(device_type=u.device.type, enabled=False):  # it would take the products in half precision
        a, b = (l2_normalize(wide(x)) for x in (u, v))
        itself = torch.eye(u.shape[-2], dtype=torch.bool, device=u.device)
        across = a @ b.mT / temperature  # (..., N, N); the positives are the diagonal
        within_a, within_b = (
            (x @ x.mT / temperature).masked_fill(itself, -math.inf)  # a node is not its own negative
            for x in (a, b)
        )
        positive = across.diagonal(dim1=-2, dim2=-1)
        from_a = torch.cat([across, within_a], -1).logsumexp(-1) - positive
        from_b = torch.cat([across.mT, within_b], -1).logsumexp(-1) - positive
        return (from_a + from_b).mean() / 2
