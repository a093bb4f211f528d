"""Pre-training objectives, one file each."""

from unreel.methods.arrow_of_time import ArrowOfTime
from unreel.methods.byol import BYOL
from unreel.methods.cvrl import CVRL
from unreel.methods.method import LossOutput, Method, StepsDone
from unreel.methods.moco import MoCo
from unreel.methods.opn import OPN
from unreel.methods.pace import Pace
from unreel.methods.pirl import PIRL
from unreel.methods.pretext import PretextTask
from unreel.methods.registry import create_method, list_methods, method_builder, register_method
from unreel.methods.rotation import Rotation
from unreel.methods.shuffle_learn import ShuffleLearn
from unreel.methods.simclr import SimCLR
from unreel.methods.simsiam import SimSiam
from unreel.methods.supervised import Supervised
from unreel.methods.swav import SwAV
from unreel.methods.tcgl import TCGL
from unreel.methods.vcop import VCOP
from unreel.methods.vcp import VCP

__all__ = [
    "BYOL",
    "CVRL",
    "OPN",
    "PIRL",
    "TCGL",
    "VCOP",
    "VCP",
    "ArrowOfTime",
    "LossOutput",
    "Method",
    "MoCo",
    "Pace",
    "PretextTask",
    "Rotation",
    "ShuffleLearn",
    "SimCLR",
    "SimSiam",
    "StepsDone",
    "Supervised",
    "SwAV",
    "create_method",
    "list_methods",
    "method_builder",
    "register_method",
]
