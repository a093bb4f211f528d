"""Encoders, heads, norms, inflation, weights."""

# Importing an architecture's module registers it.
from unreel.nn import c3d as c3d
from unreel.nn import efficientnet as efficientnet
from unreel.nn import r3d as r3d
from unreel.nn import r3d_18 as r3d_18
from unreel.nn import r3d_small as r3d_small
from unreel.nn import resnet as resnet
from unreel.nn import vit_tiny as vit_tiny
from unreel.nn.count import count_macs, count_parameters
from unreel.nn.ema import Teacher, ema_update
from unreel.nn.encoder import Encoder, InputSpec, StageInfo
from unreel.nn.external import wrap_encoder
from unreel.nn.heads import LinearHead, normalized_mlp, projection_mlp
from unreel.nn.inflate import inflate, inflate_state_dict
from unreel.nn.matching import MatchReport
from unreel.nn.registry import create_encoder, encoder_arguments, list_encoders, register_encoder
from unreel.nn.weights import load_encoder, load_weights, read_card, save_encoder

__all__ = [
    "Encoder",
    "InputSpec",
    "LinearHead",
    "MatchReport",
    "StageInfo",
    "Teacher",
    "count_macs",
    "count_parameters",
    "create_encoder",
    "ema_update",
    "encoder_arguments",
    "inflate",
    "inflate_state_dict",
    "list_encoders",
    "load_encoder",
    "load_weights",
    "normalized_mlp",
    "projection_mlp",
    "read_card",
    "register_encoder",
    "save_encoder",
    "wrap_encoder",
]
