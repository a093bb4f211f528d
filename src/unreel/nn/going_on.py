"""Going on from good weights: which stages of an encoder stay as they are, and whose statistics its norms use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unreel.core.checks import checked
from unreel.nn.encoder import Encoder, Norms


@checked
def go_on(encoder: Encoder, *, frozen_to: str | None = None, norms: Norms = "trained") -> None:
    """Settings of an encoder that starts from weights worth keeping, in place.

    Args:
        encoder: whose parameters lose ``requires_grad`` where they are frozen.
        frozen_to: the last stage that is not trained; all before it are not, either, and their norms are "kept" at
            least. None: all are trained.
        norms: statistics of batch norms in training. "trained": the batch's, and their moving average afterwards;
            "kept": those that came with the weights; "settled": measured on the training data before the first step,
            and kept from then on. Few videos or small batches want one of the last two.
    Raises: UsageError for an unknown stage.
    """
    frozen: list[str] = []
    if frozen_to is not None:
        encoder.check_names([frozen_to])
        names = list(encoder.stage_info)
        frozen = names[: names.index(frozen_to) + 1]
    for name in frozen:
        encoder.stage(name).requires_grad_(False)
    encoder.frozen, encoder.norms = tuple(frozen), norms
    encoder.train(encoder.training)


@torch.no_grad()
def settle_norms(module: nn.Module, run: Callable[[Encoder], None]) -> None:
    """Measure the statistics of the batch norms of every encoder in ``module`` whose norms are "settled".

    Args:
        module: such as a method with its teacher. run: feeds an encoder some data, the same at every call.
    """
    for encoder in module.modules():
        if not isinstance(encoder, Encoder) or encoder.norms != "settled":
            continue
        norms = [m for m in encoder.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        before = [(m.momentum, m.training) for m in norms]
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # the mean over all batches
            m.train()
        try:
            run(encoder)
        finally:
            for m, (momentum, training) in zip(norms, before, strict=True):
                m.momentum = momentum
                m.train(training)
