"""What is asked of an encoder, and what it is worth."""

from unreel.tasks.baselines import FrameStatistics, random_init
from unreel.tasks.classification import LabelTask
from unreel.tasks.evaluate import evaluate, profiles
from unreel.tasks.finetune import FineTune
from unreel.tasks.gallery import GalleryTask
from unreel.tasks.order import ClipOrderTask
from unreel.tasks.scores import Report, Score
from unreel.tasks.sgd_probe import SGDProbe
from unreel.tasks.task import TASKS, Metric, Parts, Task
from unreel.tasks.trained import TrainedProtocol

__all__ = [
    "TASKS",
    "ClipOrderTask",
    "FineTune",
    "FrameStatistics",
    "GalleryTask",
    "LabelTask",
    "Metric",
    "Parts",
    "Report",
    "SGDProbe",
    "Score",
    "Task",
    "TrainedProtocol",
    "evaluate",
    "profiles",
    "random_init",
]
