"""A run's method again, with its head: the settings build it, the last checkpoint fills it."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import nn

from unreel.core.errors import DataError, UsageError
from unreel.explain.contracam import Embed, Objective
from unreel.methods import Method, PretextTask, Supervised, create_method
from unreel.nn import Encoder, create_encoder
from unreel.nn.encoder import without_weights
from unreel.nn.kernels import channels_last
from unreel.nn.registry import encoder_builder
from unreel.recipes import load_recipe
from unreel.recipes.build import method_arguments
from unreel.recipes.schema import resolve
from unreel.train.checkpoint import in_short
from unreel.train.run import Run, open_encoder, open_run

# Dimensions enough to tell whether a head maps embeddings (B, D) to projections.
_TRIED = 2


def load_method(run: Run | str | os.PathLike[str]) -> Method:
    """The method of a run as its last checkpoint has it, in evaluation mode, on the CPU.

    These are the last weights of encoder and head, which belong together; a run that selected earlier ones by
    validation left its encoder with those.

    Raises: DataError where there is no run, no checkpoint of it, or none that fits its settings; UsageError for a run
        of a method object, whose settings are not known.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    layers = load_recipe(opened.path).layers
    present = {section for layer in layers for section, keys in layer.sections.items() if keys}
    if not {"method", "encoder"} <= present:
        raise UsageError(
            f"{opened.path}: its method or encoder was given as an object, so that its settings cannot build it again; "
            "load the state of its checkpoint into that object yourself"
        )
    settings = resolve(layers)
    names = {section: str(settings[section]["name"]) for section in ("method", "encoder")}
    seed = int(settings["train"]["seed"])
    arguments = settings.arguments("encoder", encoder_builder(names["encoder"]))
    encoder = create_encoder(names["encoder"], seed=seed, **without_weights(arguments))
    method = create_method(names["method"], encoder, seed=seed, **method_arguments(settings))
    if settings["train"]["memory_format"] == "channels_last":
        channels_last(method)
    paths = opened.checkpoints
    for path in reversed(paths):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            method.load_state_dict(state["method"])
        except Exception as error:  # torch raises what zip and pickle raise: no common type
            problem = in_short(error)
            continue
        return method.eval()
    raise DataError(
        f"{opened.path}: none of its {len(paths)} checkpoints can be read ({problem})"
        if paths
        else f"{opened.path} has no checkpoint, and its head is in no other file; train it again, or use "
        "encoder.safetensors by itself"
    )


class CamNets(NamedTuple):
    """An encoder, what ContraCAM compares with it, and how (``CamSettings.embed`` and ``score``)."""

    encoder: Encoder
    projector: nn.Module | None
    embed: Embed = "projector"
    score: Objective = "contrastive"


def load_cam_nets(path: str | os.PathLike[str] | Run) -> CamNets:
    """The nets for maps out of a run, an encoder's file, or the name of an encoder with weights.

    A run's head goes with its encoder; a supervised run's is a classifier, whose class is explained. An encoder by
    itself, and a method whose head is no projection, compare embeddings.

    Raises: DataError, UsageError where there is neither.
    """
    if not isinstance(path, Run) and not os.path.isfile(os.path.join(path, "config.yaml")):
        return CamNets(open_encoder(path), None, embed="backbone")
    method = load_method(path)
    head = getattr(method, "head", None)
    if isinstance(method, Supervised):
        return CamNets(method.encoder, method.head, score="supervised")
    if isinstance(method, PretextTask) or not isinstance(head, nn.Module) or not _projects(method.encoder, head):
        return CamNets(method.encoder, None, embed="backbone")
    return CamNets(method.encoder, head)


def _projects(encoder: Encoder, head: nn.Module) -> bool:
    like = next(encoder.parameters())
    try:
        with torch.no_grad():
            found = head(like.new_ones(_TRIED, encoder.num_features))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == _TRIED
