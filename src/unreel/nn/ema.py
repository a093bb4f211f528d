"""A teacher that follows: a copy of a network whose parameters are a moving average of the original's."""

from __future__ import annotations

import copy
import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from unreel.core.checks import Share, checked
from unreel.core.errors import UsageError

MomentumSchedule: TypeAlias = Literal["constant", "cosine"]


@checked
@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: Share) -> None:
    """target ← m · target + (1 − m) · online, in place; parameters only (docs/methods/moco.md, Training).

    Buffers stay: a target that runs in training mode keeps its own batch-norm statistics.

    Args:
        target, online: modules of one structure.
        momentum: m in [0, 1]; 1 leaves the target as it is, 0 copies.
    Raises: UsageError for another m, or parameters that do not match.
    """
    own, other = dict(target.named_parameters()), dict(online.named_parameters())
    if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in other.items()}:
        raise UsageError(
            "a moving average needs modules of one structure; these differ in the names or shapes of parameters, such "
            f"as {sorted(own.keys() ^ other.keys())[:3] or 'in shape'}"
        )
    for name, parameter in own.items():
        parameter.mul_(momentum).add_(other[name].to(parameter), alpha=1 - momentum)


@checked
def scheduled_momentum(base: float, fraction: float, schedule: MomentumSchedule = "constant") -> float:
    """The teacher's momentum once a ``fraction`` of the run is done.

    "constant" is ``base``; "cosine" goes from ``base`` to 1: 1 − (1 − base) · (cos(π · fraction) + 1)/2 (BYOL, Grill
    2020, §3.3). Raises UsageError for an unknown schedule.
    """
    if schedule == "constant":
        return base
    return 1 - (1 - base) * (math.cos(math.pi * min(1.0, fraction)) + 1) / 2


class Teacher(nn.Module):
    """Copies of modules, one after another, that follow the originals and get no gradient.

    Its parameters have ``requires_grad=False``: optimisers leave them out, state dicts hold them. It stays in training
    mode with the method around it, so its batch norms use the batch's statistics and keep running ones of their own.
    """

    def __init__(self, *online: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(module) for module in online)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The input through every part, without gradient."""
        for part in self.parts:
            x = part(x)
        return x

    def follow(self, *online: nn.Module, momentum: float) -> None:
        """``ema_update`` of every part from its original, in the order of construction."""
        for part, module in zip(self.parts, online, strict=True):
            ema_update(part, module, momentum)
