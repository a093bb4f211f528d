"""Parameters, multiply–accumulates and shapes, without computing anything: everything runs on the meta device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from unreel.core.errors import UsageError
from unreel.core.modules import evaluating
from unreel.nn.encoder import Encoder


def count_parameters(module: nn.Module, trainable_only: bool = True) -> int:
    """Number of parameters; with ``trainable_only=False`` also frozen ones and batch norms' running mean and variance.

    The second figure is the one papers round to (docs/methods/cvrl.md, Backbone). The integer batch counters are never
    counted.
    """
    parameters = [p for p in module.parameters() if p.requires_grad or not trainable_only]
    buffers = [] if trainable_only else [b for b in module.buffers() if b.is_floating_point()]
    return sum(t.numel() for t in [*parameters, *buffers])


def _meta_call(module: nn.Module, shape: Sequence[int], *args: object) -> object:
    """``module`` on an input of ``shape`` with one row, on the meta device; neither weights nor mode change."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    with evaluating(module), torch.no_grad():
        return functional_call(module, meta, (torch.empty((1, *shape), dtype=dtype, device="meta"), *args))


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _module_macs(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, _CONVOLUTIONS):
        return output.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size)
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    return 0


def count_macs(module: nn.Module, shape: tuple[int, ...], *, linear: bool = False) -> int:
    """Multiply–accumulates of one forward pass over one input of ``shape``, (C, T, H, W) for an encoder.

    Convolutions only, one multiply–accumulate counting 1 (docs/methods/cvrl.md, Backbone); ``linear=True`` adds
    ``nn.Linear`` layers. Padding counts as work, as everywhere; attention products, norms and pools do not count.
    """
    counted = (*_CONVOLUTIONS, nn.Linear) if linear else _CONVOLUTIONS
    total = 0

    def add(m: nn.Module, _: tuple[object, ...], output: Tensor) -> None:
        nonlocal total
        total += _module_macs(m, output)

    hooks = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, counted)]
    try:
        _meta_call(module, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return total


class StageRow(NamedTuple):
    """One stage of an encoder at a given input: its map's shape, its parameters and its multiply–accumulates."""

    name: str
    channels: int
    frames: int
    height: int
    width: int
    parameters: int
    macs: int


class _Features(nn.Module):
    """``forward_features`` as a module's forward, so that it can be called on meta weights."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        return self.encoder.forward_features(x, names)


def stage_shapes(encoder: Encoder, shape: tuple[int, int, int, int]) -> dict[str, tuple[int, int, int, int]]:
    """The shape (C, T, h, w) of every stage's map for one clip of ``shape`` (C, T, H, W), from a pass on meta."""
    maps = _meta_call(_Features(encoder), shape, list(encoder.stage_info))
    assert isinstance(maps, dict)
    return {name: tuple(m.shape[1:]) for name, m in maps.items()}


def stage_table(encoder: Encoder, shape: tuple[int, int, int, int]) -> list[StageRow]:
    """A row per stage for one clip of ``shape`` (C, T, H, W): shape, trainable parameters, multiply–accumulates.

    Raises: UsageError when ``shape`` is not four numbers with the encoder's channels.
    """
    if len(shape) != 4 or shape[0] != encoder.input_spec.channels:
        raise UsageError(f"stage_table takes (C, T, H, W) with C = {encoder.input_spec.channels}, got {shape}")
    rows: list[StageRow] = []
    before: tuple[int, ...] = shape
    for name, (c, t, h, w) in stage_shapes(encoder, shape).items():
        stage = encoder.stage(name)
        rows.append(StageRow(name, c, t, h, w, count_parameters(stage), count_macs(stage, before, linear=True)))
        before = (c, t, h, w)
    return rows
