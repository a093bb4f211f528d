"""Pure functions on arrays: classification, retrieval, and the metrics of every later task."""
