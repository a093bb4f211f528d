"""The training loop, its schedule, its checkpoints."""

from unreel.train.backend import Backend
from unreel.train.checkpoint import Checkpoints
from unreel.train.monitor import Monitor
from unreel.train.optim import build_optimizer
from unreel.train.options import Keeping, Training
from unreel.train.run import Run, open_run, pretrain
from unreel.train.schedule import warmup_cosine
from unreel.train.trainer import DivergedError, FitResult, fit

__all__ = [
    "Backend",
    "Checkpoints",
    "DivergedError",
    "FitResult",
    "Keeping",
    "Monitor",
    "Run",
    "Training",
    "build_optimizer",
    "fit",
    "open_run",
    "pretrain",
    "warmup_cosine",
]
