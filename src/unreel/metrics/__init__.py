"""Pure functions on arrays: classification, retrieval, localisation, and the metrics of every later task."""

from unreel.metrics import classification, localization, retrieval

__all__ = ["classification", "localization", "retrieval"]
