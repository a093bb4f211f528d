"""Pure functions on arrays: classification, retrieval, and the metrics of every later task."""

from unreel.metrics import classification, retrieval

__all__ = ["classification", "retrieval"]
