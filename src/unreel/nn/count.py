"""Parameters and multiply–accumulates, without computing anything: everything runs on the meta device."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unreel.core.modules import evaluating


def count_parameters(module: nn.Module, trainable_only: bool = True) -> int:
    """Number of parameters; with ``trainable_only=False`` also frozen ones and batch norms' running mean and variance.

    The second figure is the one papers round to (docs/methods/cvrl.md, Backbone). The integer batch counters are never
    counted.
    """
    parameters = [p for p in module.parameters() if p.requires_grad or not trainable_only]
    buffers = [] if trainable_only else [b for b in module.buffers() if b.is_floating_point()]
    return sum(t.numel() for t in [*parameters, *buffers])


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def count_macs(module: nn.Module, shape: tuple[int, ...], *, linear: bool = False) -> int:
    """Multiply–accumulates of one forward pass over one input of ``shape``, (C, T, H, W) for an encoder.

    Convolutions only, one multiply–accumulate counting 1 (docs/methods/cvrl.md, Backbone); ``linear=True`` adds
    ``nn.Linear`` layers. Padding counts as work, as everywhere; attention products, norms and pools do not count.
    """
    counted = (*_CONVOLUTIONS, nn.Linear) if linear else _CONVOLUTIONS
    total = 0

    def add(m: nn.Module, _: tuple[object, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(m, _CONVOLUTIONS):
            total += output.numel() * (m.in_channels // m.groups) * math.prod(m.kernel_size)
        elif isinstance(m, nn.Linear):
            total += output.numel() * m.in_features

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}  # neither weights nor mode change
    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, counted)]
    try:
        with evaluating(module), torch.no_grad():
            functional_call(module, meta, (torch.empty((1, *shape), dtype=dtype, device="meta"),))
    finally:
        for hook in hooks:
            hook.remove()
    return total
