"""What a run's logged values are when its method knows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unreel.methods.registry import METHODS


def chance_levels(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Chance by name of the value, as the method says it of a run's complete settings; empty where it cannot."""
    name = settings.get("method", {}).get("name", "")
    try:
        return METHODS[name].chance(settings) if name in METHODS else {}
    except KeyError:  # settings of an older version, or not all of them
        return {}
