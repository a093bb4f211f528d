"""Objectives as functions of projections."""

from unreel.losses.contrastive import ContrastStatistics, contrast_statistics, l2_normalize, nt_xent

__all__ = ["ContrastStatistics", "contrast_statistics", "l2_normalize", "nt_xent"]
