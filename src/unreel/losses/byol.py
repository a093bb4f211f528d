"""BYOL's regression of the teacher's projection (Grill et al., NeurIPS 2020; docs/methods/byol.md, Heads and loss)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.distributed import all_reduce_mean
from unreel.core.errors import UsageError
from unreel.core.modules import wide


def cosines(p: Tensor, y: Tensor) -> Tensor:
    """Cosine of each row of p (B, D) with the same row of y, (B,), in float32 at least; no gradient into y.

    Raises: UsageError for shapes that differ.
    """
    if p.ndim != 2 or p.shape != y.shape:
        raise UsageError(f"predictions and targets need equal shapes (B, D), got {tuple(p.shape)} and {tuple(y.shape)}")
    with torch.autocast(device_type=p.device.type, enabled=False):
        a = wide(p)
        return (functional.normalize(a, dim=1) * functional.normalize(y.detach().to(a), dim=1)).sum(1)


def byol_loss(p: Tensor, y: Tensor) -> Tensor:
    """One direction: −2 · mean cosine of predictions and the teacher's projections, in [−2, 2].

    Grill's ‖p̄ − ȳ‖² is this plus 2. The method adds both directions.

    Args:
        p: (B, D) predictions, any scale. y: (B, D) the teacher's projections, any scale; no gradient flows into them.
    Returns: scalar, in float32 at least.
    Raises: UsageError for shapes that differ.
    """
    return -2 * cosines(p, y).mean()


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """1 − ‖mean of unit rows‖², over the samples of all processes: 0 when all are one (collapse), near 1 when spread.

    A detached scalar.
    """
    unit = functional.normalize(wide(z), dim=1)
    return 1 - all_reduce_mean(unit.mean(0)).square().sum()
