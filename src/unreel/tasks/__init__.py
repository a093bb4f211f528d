"""What is asked of an encoder, and what it is worth."""

from unreel.tasks.baselines import FrameStatistics, random_init
from unreel.tasks.classification import LabelTask
from unreel.tasks.evaluate import evaluate, profiles
from unreel.tasks.gallery import GalleryTask
from unreel.tasks.scores import Report, Score
from unreel.tasks.sgd_probe import SGDProbe
from unreel.tasks.task import TASKS, Metric, Parts, Task

__all__ = [
    "TASKS",
    "FrameStatistics",
    "GalleryTask",
    "LabelTask",
    "Metric",
    "Parts",
    "Report",
    "SGDProbe",
    "Score",
    "Task",
    "evaluate",
    "profiles",
    "random_init",
]
