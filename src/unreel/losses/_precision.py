"""What losses compute in: float32 at least, whatever the network ran in."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 where they are.

    Within autocast, switch that off around what follows: it would take products in half precision again.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
