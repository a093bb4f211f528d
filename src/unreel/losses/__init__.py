"""Objectives as functions of projections."""

from unreel.losses.contrastive import ContrastStatistics, contrast_statistics, l2_normalize, nt_xent
from unreel.losses.graph import node_info_nce

__all__ = ["ContrastStatistics", "contrast_statistics", "l2_normalize", "node_info_nce", "nt_xent"]
