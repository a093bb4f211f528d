"""Pre-training objectives, one file each."""

from unreel.methods.cvrl import CVRL
from unreel.methods.method import LossOutput, Method, Progress
from unreel.methods.registry import create_method, list_methods, method_builder, register_method
from unreel.methods.tcgl import TCGL

__all__ = [
    "CVRL",
    "TCGL",
    "LossOutput",
    "Method",
    "Progress",
    "create_method",
    "list_methods",
    "method_builder",
    "register_method",
]
