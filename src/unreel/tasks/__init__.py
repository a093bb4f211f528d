"""What is asked of an encoder, and what it is worth."""

from unreel.tasks.background import BackgroundTask, VariantTask
from unreel.tasks.baselines import BASELINES, FrameStatistics, first_weights, random_init
from unreel.tasks.classification import LabelTask
from unreel.tasks.evaluate import evaluate
from unreel.tasks.finetune import FineTune
from unreel.tasks.gallery import GalleryTask
from unreel.tasks.jobs import Job, JobStore, run, run_all
from unreel.tasks.labelled import SplitRule
from unreel.tasks.order import ClipOrderTask
from unreel.tasks.profiles import PROFILES, PROTOCOLS, Profile
from unreel.tasks.scores import Report, Score
from unreel.tasks.segmentation import MaskTask
from unreel.tasks.sgd_probe import SGDProbe
from unreel.tasks.shift import ShiftTask
from unreel.tasks.task import TASKS, Metric, Outcomes, Parts, Task
from unreel.tasks.trained import TrainedProtocol
from unreel.tasks.transfer import TRANSFER_SETS, TransferSet, transfer_set

__all__ = [
    "BASELINES",
    "PROFILES",
    "PROTOCOLS",
    "TASKS",
    "TRANSFER_SETS",
    "BackgroundTask",
    "ClipOrderTask",
    "FineTune",
    "FrameStatistics",
    "GalleryTask",
    "Job",
    "JobStore",
    "LabelTask",
    "MaskTask",
    "Metric",
    "Outcomes",
    "Parts",
    "Profile",
    "Report",
    "SGDProbe",
    "Score",
    "ShiftTask",
    "SplitRule",
    "Task",
    "TrainedProtocol",
    "TransferSet",
    "VariantTask",
    "evaluate",
    "first_weights",
    "random_init",
    "run",
    "run_all",
    "transfer_set",
]
