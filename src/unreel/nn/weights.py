"""Encoders on disk: safetensors with a JSON card, and foreign checkpoints with a report of what matched."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from unreel.core.checks import Range, checked
from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.core.files import replacing
from unreel.nn.encoder import Encoder, InputSpec
from unreel.nn.foreign import check_named, is_foreign, name_factory
from unreel.nn.inflate import InflateMode, inflate_state_dict
from unreel.nn.kernels import channels_last, is_channels_last
from unreel.nn.matching import PREFIXES, MatchReport, explain, foreign_parts, match_state, tensors_digest
from unreel.nn.registry import ENCODERS, create_encoder, encoder_arguments

FILE_NAME = "encoder.safetensors"
_CARD = "unreel_card"
_FORMAT = 2  # 1 said remove_dc: true where 2 says dct_highpass: 1

# Where frameworks keep the state dict inside a checkpoint, tried in order.
_NESTS = (
    ("classy_state_dict", "base_model", "model", "trunk"),
    ("state_dict",),
    ("model_state_dict",),
    ("model_state",),
    ("model",),
    ("student",),
    ("teacher",),
    ("encoder",),
    ("network",),
    ("net",),
    ("method",),  # unreel's own checkpoints of a run
)


def _version() -> str:
    try:
        return version("unreel")
    except PackageNotFoundError:
        return "unknown"


def save_encoder(encoder: Encoder, path: str | Path, card: Mapping[str, object] | None = None) -> Path:
    """Write weights and card to one safetensors file, atomically; returns its path.

    Args:
        path: a file, or a directory that exists (then ``encoder.safetensors`` inside it).
        card: anything JSON can hold: recipe, data, scores. The architecture, its arguments, the input spec, the stages,
            the weights' digest and layout and unreel's version are added.

    Raises: UsageError when ``card`` names one of the added entries or cannot be written as JSON.
    """
    target = Path(path)
    if target.is_dir():
        target = target / FILE_NAME
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in encoder.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.data_ptr() in seen:  # safetensors refuses tensors that share memory
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        tensors[name] = tensor
    own: dict[str, object] = {
        "format": _FORMAT,
        "unreel": _version(),
        "architecture": encoder.architecture,
        "arguments": dict(encoder.arguments),
        "num_features": encoder.num_features,
        "input_spec": encoder.input_spec.to_card(),
        "stage_info": {name: info._asdict() for name, info in encoder.stage_info.items()},
        "digest": tensors_digest(tensors),
        "memory_format": "channels_last" if is_channels_last(encoder) else "contiguous",
    }
    clash = sorted(own.keys() & (card or {}).keys())
    if clash:
        raise UsageError(f"save_encoder writes {', '.join(clash)} into the card by itself; leave it out")
    try:
        text = json.dumps({**own, **(card or {})})
    except (TypeError, ValueError) as error:
        raise UsageError(f"the card must be plain JSON values: {error}") from None
    with replacing(target, durable=True) as partial:
        partial.write_bytes(save(tensors, metadata={_CARD: text}))  # its own writer makes files only the owner reads
    return target


def named_encoder(place: str | PathLike[str]) -> str | None:
    """The name that ``place`` is of an encoder with weights; None where a file, a run or nothing known is there.

    Raises: UsageError for the name of an encoder that has no weights by itself.
    """
    name = os.fspath(place)
    if any(os.path.isfile(file) for file in (name, os.path.join(name, FILE_NAME), os.path.join(name, "config.yaml"))):
        return None
    if is_foreign(name) or (name in ENCODERS and "pretrained" in encoder_arguments(name)):
        return name
    if name in ENCODERS:
        raise UsageError(
            f"{name} is the name of an encoder without weights: give a run's folder, an encoder file, or the name of "
            f"one with weights (see: unreel models); with evaluate, --init FILE gives {name} weights"
        )
    return None


def _encoder_file(path: str | Path) -> Path:
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    if not file.is_file():
        raise DataError(
            f"no encoder at {file}; expected a .safetensors file, a run directory with {FILE_NAME}, or the name of an "
            "encoder with weights (see: unreel models)"
        )
    return file


def read_card(path: str | Path) -> dict[str, Any]:
    """The card of a saved encoder (a file, or a run directory), without reading its weights.

    Raises: DataError when there is no such file, it is damaged, or it was not written by ``save_encoder``.
    """
    file = _encoder_file(path)
    try:
        with safe_open(file, framework="pt") as handle:
            text = (handle.metadata() or {}).get(_CARD)
        card = json.loads(text) if text is not None else None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{file} is not a readable safetensors file: {error}. Expected an encoder that unreel wrote: a finished "
            f"run's folder or its {FILE_NAME}, or a file of save_encoder. Give one of these, or copy the file again "
            "if it was damaged on its way"
        ) from None
    if not isinstance(card, dict):
        raise DataError(f"{file} has no unreel card; build the encoder and use load_weights(encoder, path)")
    if int(card.get("format", 0)) > _FORMAT:
        raise DataError(f"{file} was written by a newer unreel ({card.get('unreel')}); upgrade to read it")
    if int(card.get("format", 0)) == 1:
        for part in (card.get("input_spec"), card.get("arguments")):
            if isinstance(part, dict) and "remove_dc" in part:
                part["dct_highpass"] = int(part.pop("remove_dc"))
    return card


def _read_tensors(file: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file, each in memory of its own, as torch allocates it.

    What safetensors gives are views into the file, at any address: some kernels are slower there, and their sums may
    end in another bit.
    """
    with safe_open(file, framework="pt", device=str(device)) as handle:
        return {name: handle.get_tensor(name).clone() for name in handle.keys()}  # noqa: SIM118


def _spec_from_card(values: Mapping[str, Any]) -> InputSpec:
    arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return InputSpec(**arguments)


def load_encoder(path: str | Path, *, device: torch.device | str = "cpu", factory: str | None = None) -> Encoder:
    """The encoder saved at ``path`` (a file, or a run directory), in evaluation mode, bit for bit, laid out as it was.

    Args:
        factory: code that may be run to build it, as ``package.module:factory``: that which the card names.
    Raises: DataError for a missing or damaged file; UsageError for an encoder around a foreign module, which cannot be
        built from a card, and for a card that names another factory, or a package that is not installed.
    """
    file = _encoder_file(path)
    card = read_card(file)
    name = str(card["architecture"])
    if not name:
        raise UsageError(
            f"{file} holds the weights of a wrapped module, which a card cannot build: build and wrap the module, then "
            "call load_weights(encoder, path)"
        )
    if factory is not None:
        name_factory(factory)
    try:
        encoder = _built(name, card["arguments"])
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    try:
        state = _read_tensors(file, device)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is damaged: {error}") from None
    _, report = match_state(state, encoder.state_dict(), "unreel")
    if report.missing or report.misshaped or report.unexpected:
        raise DataError(f"{file} does not hold the {name!r} that its card describes: {report}")
    encoder.load_state_dict(state, assign=True)
    if card.get("memory_format") == "channels_last":
        channels_last(encoder)
    encoder.input_spec = _spec_from_card(card["input_spec"])
    return encoder.to(device).eval()


def _built(name: str, arguments: Mapping[str, Any]) -> Encoder:
    """The net that a card describes; the file's tensors become its parameters."""
    check_named(name)
    if is_foreign(name):  # may hold buffers that no file has
        return create_encoder(name, seed=0, **arguments)
    with torch.device("meta"):  # without memory or random draws
        return create_encoder(name, **arguments)


def _tensors(value: object) -> dict[str, Tensor] | None:
    """The mapping's tensors when it is a state dict: names to tensors, for the most part."""
    if not isinstance(value, Mapping):
        return None
    tensors = {str(k): v for k, v in value.items() if isinstance(v, Tensor)}
    return tensors if tensors and 2 * len(tensors) >= len(value) else None


def _unwrap(checkpoint: object, where: str) -> dict[str, Tensor]:
    for nest in _NESTS:
        inner: object = checkpoint
        for key in nest:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        tensors = _tensors(inner)
        if tensors is not None:
            return tensors
    tensors = _tensors(checkpoint)
    if tensors is None:
        keys = (
            ", ".join(map(str, list(checkpoint)[:8])) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        )
        raise DataError(f"{where} holds no state dict; found {keys}")
    return tensors


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file on the CPU: safetensors, or torch's format read without running pickled code.

    Looks inside the usual wrappings (``state_dict``, ``model``, VISSL's trunk …).
    Raises: DataError when the file is missing, damaged, holds code, or no state dict is found in it.
    """
    file = Path(path)
    if file.is_dir():
        file = _encoder_file(file)
    if not file.is_file():
        raise DataError(f"no checkpoint at {file}")
    try:
        if file.suffix == ".safetensors":
            return _read_tensors(file)
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{file} holds more than tensors, or is damaged; unreel does not run pickled code. "
            f"Save its state dict alone and load that. ({str(error).splitlines()[0]})"
        ) from None
    except (SafetensorError, OSError, EOFError, RuntimeError, KeyError, ValueError) as error:
        raise DataError(f"{file} is not a readable checkpoint: {error}") from None
    return {name: tensor.clone() for name, tensor in _unwrap(checkpoint, str(file)).items()}


@checked
def load_weights(
    encoder: Encoder,
    weights: Mapping[str, object] | str | Path,
    source: str = "auto",
    *,
    inflate: InflateMode | None = None,
    min_coverage: Annotated[float, Range(gt=0, le=1)] = 1.0,
) -> MatchReport:
    """Load a state dict or a checkpoint file into an encoder, or refuse and leave it as it was.

    Args:
        weights: a state dict (also one wrapped as frameworks do), or a file.
        source: the checkpoint's kind, which fixes the prefix to strip; "auto" takes the prefix that matches most.
        inflate: turn 2-D kernels into 3-D ones by "mean" or "center".
        min_coverage: the share of the encoder's tensors that must match; heads in the checkpoint are dropped and batch
            norms' counters are optional.

    Returns: what matched, with the SHA-256 of the matched tensors.
    Raises: UsageError for an unknown source, and for a poor match: counts, first names and the likely reason. Blocks in
    the checkpoint that the encoder lacks (another depth) are refused at any ``min_coverage``.
    """
    if source != "auto" and source not in PREFIXES:
        raise unknown_name("source of weights", source, ["auto", *PREFIXES])
    if isinstance(weights, str | Path):
        state, where = read_state(weights), str(weights)
    else:
        state, where = _unwrap(weights, "the mapping"), "the state dict"
    expected = encoder.state_dict()
    if inflate is not None:
        fitting, report = inflate_state_dict(state, encoder, mode=inflate, source=source)
    else:
        fitting, report = match_state(state, expected, source)
    if report.coverage < min_coverage or foreign_parts(report, expected):
        reason = explain(report, expected)
        raise UsageError(
            f"{where} does not fit {encoder.architecture or type(encoder).__name__}: {report}"
            + (f". {reason[0].upper()}{reason[1:]}." if reason else ".")
        )
    with torch.no_grad():
        for name, tensor in fitting.items():
            expected[name].copy_(tensor)
    return report
