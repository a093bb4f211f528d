"""Objectives as functions of projections."""

from unreel.losses.byol import byol_loss
from unreel.losses.contrastive import ContrastStatistics, contrast_statistics, l2_normalize, nt_xent
from unreel.losses.graph import node_info_nce
from unreel.losses.memory import memory_nce
from unreel.losses.queue import Mixed, mixed_queue_info_nce, queue_info_nce
from unreel.losses.swav import sinkhorn, swapped_prediction

__all__ = [
    "ContrastStatistics",
    "Mixed",
    "byol_loss",
    "contrast_statistics",
    "l2_normalize",
    "memory_nce",
    "mixed_queue_info_nce",
    "node_info_nce",
    "nt_xent",
    "queue_info_nce",
    "sinkhorn",
    "swapped_prediction",
]
