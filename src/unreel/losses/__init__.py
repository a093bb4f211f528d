"""Objectives as functions of projections."""

from unreel.losses.byol import byol_loss
from unreel.losses.contrastive import ContrastStatistics, contrast_statistics, l2_normalize, nt_xent
from unreel.losses.graph import node_info_nce
from unreel.losses.queue import Mixed, mixed_queue_info_nce, queue_info_nce

__all__ = [
    "ContrastStatistics",
    "Mixed",
    "byol_loss",
    "contrast_statistics",
    "l2_normalize",
    "mixed_queue_info_nce",
    "node_info_nce",
    "nt_xent",
    "queue_info_nce",
]
