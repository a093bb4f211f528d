"""What contrastive methods log when they know nothing, where their settings determine it (cvrl.md §2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def chance_levels(config: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Chance of ``contrast_accuracy`` and ``loss``, by name, from a run's settings."""
    method, batch = config.get("method", {}), config.get("train", {}).get("batch_size")

    def setting(name: str, default: Any = None) -> Any:
        value = method.get(name)
        return default if value is None else value

    name = setting("name", "a method")
    if name == "moco":  # a query's own key against the queue, whatever the batch (object_aware.md §1.2)
        keys = setting("queue_size", 0)
        loss = {"loss": math.log(1 + keys)} if setting("mix", "none") == "none" else {}
        return {"contrast_accuracy": 1 / (1 + keys), **loss} if keys else {}
    if not batch or setting("gather", "global") != "global":
        return {}
    chance = {"contrast_accuracy": 1 / batch}
    plain = setting("reduction") == "mean" and setting("same_view_negatives") is True
    plain = plain or name == "simclr"  # the same loss, without those settings
    if name in ("cvrl", "simclr") and plain and setting("grad_scale", 1.0) == 1:
        chance["loss"] = math.log(2 * batch - 1)
    return chance
