"""Intervals and tests: what a score is worth."""

from unreel.stats.intervals import Interval, PairedDifference, bootstrap_ci, exact_proportion_ci, paired_bootstrap

__all__ = ["Interval", "PairedDifference", "bootstrap_ci", "exact_proportion_ci", "paired_bootstrap"]
