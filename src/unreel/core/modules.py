"""What many do with networks: set a mode for a while, ask where they are, widen their values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """The modules in evaluation mode, so that running statistics stay; every part's own mode is put back."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def device_of(module: nn.Module) -> torch.device:
    """Where a network is; the CPU for one that holds nothing."""
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    return torch.device("cpu") if first is None else first.device


def wide(x: Tensor) -> Tensor:
    """The same values in float32, or in float64 where they are.

    Within autocast, switch that off around what follows: it would take products in half precision again.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))
