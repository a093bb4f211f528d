"""Optimisers with the paper's parameter groups: kernels are decayed, biases and norms are not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeAlias, overload

import torch
from torch import Tensor, nn

from unreel.core.checks import Count, NotNegative, Positive, Range, checked
from unreel.core.errors import UsageError

OptimizerName: TypeAlias = Literal["sgd", "adamw", "lars"]
Decay: TypeAlias = Literal["kernels", "all"]


class LARS(torch.optim.Optimizer):
    """SGD whose step is rescaled per kernel by ‖w‖ / ‖g + λw‖ (You 2017, eq. 6, with momentum as in SimCLR's).

    Groups with ``adapt=False`` (biases, norms) take plain SGD steps, as SimCLR and BYOL exclude them.

    Args:
        params: parameters or groups. lr: learning rate.
        momentum: on the scaled gradient. weight_decay: λ, inside the ratio.
        trust_coefficient: 0.001 (You 2017, §4; SimCLR).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            weight_norm, gradient_norm = parameter.norm(), gradient.norm()
            ratio = group["trust_coefficient"] * weight_norm / gradient_norm
            # A zero kernel or a zero gradient has no ratio: a plain step.
            gradient = gradient * torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, torch.ones_like(ratio))
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        parameter.add_(state["momentum_buffer"], alpha=-group["lr"])


def split_parameters(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters as (kernels, the rest).

    A kernel is the weight of a convolution or of a linear map: named ``…weight``, two or more axes, not an embedding
    table. Biases, norms, tokens and positions are the rest (docs/methods/cvrl.md, Training).
    """
    found: dict[nn.Parameter, bool] = {}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False):
            kernel = name.endswith("weight") and parameter.ndim >= 2 and not isinstance(owner, nn.Embedding)
            if parameter.requires_grad:
                found.setdefault(parameter, kernel)
    return [p for p, kernel in found.items() if kernel], [p for p, kernel in found.items() if not kernel]


@checked
def build_optimizer(
    module: nn.Module,
    *,
    name: OptimizerName = "sgd",
    lr: Positive | None = None,
    lr_per_256: Positive = 0.08,
    global_batch: Count | None = None,
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.9,
    nesterov: bool = False,
    weight_decay: NotNegative = 1e-6,
    decay: Decay = "kernels",
    betas: tuple[float, float] = (0.9, 0.999),
    trust_coefficient: Positive = 0.001,
) -> torch.optim.Optimizer:
    """An optimiser over the trainable parameters of ``module``, in one decayed and one undecayed group.

    Defaults are CVRL's: SGD, momentum 0.9 without Nesterov, 0.32 at 1,024 videos = 0.08 per 256, weight decay 1e-6 on
    kernels only (docs/methods/cvrl.md, Training).

    Args:
        module: whose parameters; frozen ones are left out.
        name: "sgd", "adamw" (decoupled decay) or "lars".
        lr: the base rate itself; it wins over ``lr_per_256``.
        lr_per_256: base rate for 256 videos, scaled linearly with ``global_batch`` (Goyal 2017).
        global_batch: videos per optimiser step over all processes and accumulated batches.
        momentum, nesterov: of "sgd" (and momentum of "lars"). betas: of "adamw". trust_coefficient: of "lars".
        weight_decay, decay: how much, and on what: "kernels" or "all".

    Raises: UsageError when nothing is trainable, when neither ``lr`` nor ``global_batch`` is given, or when Nesterov's
    momentum is asked of an optimiser that has none.
    """
    if lr is None:
        if global_batch is None:
            raise UsageError("build_optimizer needs lr, or global_batch to scale lr_per_256 by")
        lr = lr_per_256 * global_batch / 256
    if nesterov and (name != "sgd" or momentum == 0):
        raise UsageError(f"nesterov=True needs name='sgd' and a momentum above 0, got {name!r} and {momentum}")
    kernels, rest = split_parameters(module)
    if not kernels and not rest:
        raise UsageError("nothing to train: every parameter has requires_grad=False")
    undecayed: dict[str, Any] = {"params": rest, "weight_decay": weight_decay if decay == "all" else 0.0}
    if name == "lars":
        undecayed["adapt"] = False
    groups = [g for g in ({"params": kernels, "weight_decay": weight_decay}, undecayed) if g["params"]]
    if name == "lars":
        return LARS(groups, lr, momentum=momentum, trust_coefficient=trust_coefficient)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov)
