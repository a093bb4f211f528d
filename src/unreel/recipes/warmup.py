"""A warm-up that fits the run: a recipe's own would be most of a short one."""

from __future__ import annotations

from collections.abc import Sequence

from unreel.core.errors import UsageError
from unreel.core.settings import Layer, Settings

SHORTENED = "shortened with"
"""How the origin of a shortened warm-up begins."""


def fit_warmup(settings: Settings, asked: Sequence[Layer], epoch_steps: float | None = None) -> Settings:
    """The settings with a shorter warm-up, where the caller set how long to train and it would be most of that.

    A warm-up of more than half of the run becomes a tenth of it, as in the recipes. One that the caller set himself,
    or that the recipe sets beside its own length, stays.

    Args:
        settings: complete ones. asked: the caller's own layers, over the recipe's.
        epoch_steps: optimiser steps per epoch. Without them only a length and a warm-up in one unit can be compared.

    Raises: UsageError for a warm-up that stays and is longer than the run, naming both settings and their origins.
    """
    train, origins = settings["train"], settings.origins["train"]
    if (train["epochs"] is None) == (train["steps"] is None):
        return settings  # `run_length` says what is wrong
    length = "epochs" if train["steps"] is None else "steps"
    warmup = "warmup_epochs" if train["warmup_steps"] is None else "warmup_steps"
    total, start = train[length], train[warmup]
    if warmup != f"warmup_{length}":
        if epoch_steps is None:
            return settings
        total = max(1, round(total * epoch_steps)) if length == "epochs" else total
        start = round(start * epoch_steps) if warmup == "warmup_epochs" else start
    tenth = round(train["epochs"] / 10, 6) if length == "epochs" else train["steps"] // 10
    own = {key for layer in asked for key, value in layer.sections.get("train", {}).items() if value is not None}
    if length in own and not own & {"warmup_epochs", "warmup_steps"} and start > total / 2:
        return settings.put("train", {f"warmup_{length}": tenth}, f"{SHORTENED} train.{length}")
    if start <= total:
        return settings
    converted = f"; that is {start:,} of {total:,} steps" if warmup != f"warmup_{length}" else ""
    raise UsageError(
        f"train.{warmup} is {train[warmup]:g} ({origins[warmup]}), longer than the whole run: train.{length} is "
        f"{train[length]:g} ({origins[length]}){converted}. Set train.warmup_{length} to less, such as {tenth:g}, or "
        f"train.{length} to more"
    )
