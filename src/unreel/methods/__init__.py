"""Pre-training objectives, one file each."""

from unreel.methods.cvrl import CVRL
from unreel.methods.method import LossOutput, Method, Progress
from unreel.methods.registry import create_method, list_methods, method_builder, register_method

__all__ = [
    "CVRL",
    "LossOutput",
    "Method",
    "Progress",
    "create_method",
    "list_methods",
    "method_builder",
    "register_method",
]
