"""Pre-training objectives, one file each."""

from unreel.methods.byol import BYOL, SimSiam
from unreel.methods.cvrl import CVRL
from unreel.methods.method import LossOutput, Method, StepsDone
from unreel.methods.moco import MoCo
from unreel.methods.order import OPN, VCOP, ArrowOfTime, ShuffleLearn
from unreel.methods.pace import Pace
from unreel.methods.pirl import PIRL
from unreel.methods.pretext import PretextTask
from unreel.methods.registry import create_method, list_methods, method_builder, register_method
from unreel.methods.rotation import Rotation
from unreel.methods.simclr import SimCLR
from unreel.methods.supervised import Supervised
from unreel.methods.swav import SwAV
from unreel.methods.tcgl import TCGL
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
