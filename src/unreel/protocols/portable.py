"""Encoders and heads for other programs: ONNX and torch.export, with the preprocessing inside, checked by running them.

What goes in are the clips as the encoder sees them: uint8 RGB, cut and resized. Value range, statistics, grey and
repetition (``Encoder.prepare``) are part of the graph, and so is the mean over a video's clips.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unreel.core.errors import DataError, UsageError
from unreel.core.extras import import_extra
from unreel.core.files import replacing
from unreel.core.modules import evaluating
from unreel.nn.encoder import Encoder
from unreel.protocols.clips import default_plan
from unreel.protocols.head import Head
from unreel.protocols.linear import FittedLinear

if TYPE_CHECKING:
    from collections.abc import Iterator

GraphFormat: TypeAlias = Literal["onnx", "torch"]
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "torch": ".pt2"}

TOLERANCE = 1e-4
"""Largest difference between an exported graph and its module, of what ``check_graph`` compares."""
_CHECKED_CLIPS = 10
_CARD = "unreel_card"


class ClipsToNumbers(nn.Module):
    """(N, V, T, S, S, C) uint8 to embeddings (N, D), and with a head to probabilities, or scores, (N, classes)."""

    coefficients: Tensor
    intercepts: Tensor
    mean: Tensor | None
    scale: Tensor | None

    def __init__(self, encoder: Encoder, head: FittedLinear | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        arrays = {} if head is None else {k: v for k, v in vars(head).items() if isinstance(v, np.ndarray)}
        for name in ("coefficients", "intercepts", "mean", "scale"):
            value = arrays.get(name)
            self.register_buffer(name, None if value is None else torch.from_numpy(np.array(value, np.float64)))

    def _logits(self, vectors: Tensor) -> Tensor:
        assert self.head is not None
        x = vectors.double()
        if self.head.l2_normalize:
            x = x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        if self.mean is not None and self.scale is not None:
            x = (x - self.mean) / self.scale
        logits: Tensor = x @ self.coefficients.T + self.intercepts
        return logits

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        """Embeddings, and what the head says of them."""
        views = self.encoder(self.encoder.prepare(clips.flatten(0, 1))).unflatten(0, clips.shape[:2])
        vectors = views.mean(1)
        if self.head is None:
            return (vectors,)
        rule = self.head.views
        logits = self._logits(vectors if rule == "vectors" else views)
        temperature = self.head.card.temperature
        if not self.head.has_probabilities:
            said = logits if rule == "vectors" else logits.mean(1)
        elif rule == "probabilities":
            said = logits.softmax(-1).mean(1)
        else:
            said = (logits if rule == "vectors" else logits.mean(1)).softmax(-1)
        if temperature is not None:
            said = ((said.log() if self.head.has_probabilities else said) / temperature).softmax(-1)
        return vectors, said.float()


def check_suffix(format: GraphFormat, path: str | os.PathLike[str]) -> Path:
    """The file to write. Raises UsageError for another suffix than the format's."""
    target = Path(path)
    if target.suffix != SUFFIXES[format]:
        raise UsageError(f"{target}: for {format} a file ends in {SUFFIXES[format]}")
    return target


def export_graph(
    encoder: Encoder, path: str | os.PathLike[str], *, format: GraphFormat, head: Head | None = None
) -> float:
    """Write a graph, all or nothing, once it gives the module's numbers; returns the largest difference.

    Inputs and outputs are named: ``clips`` (videos, views, T, S, S, C) uint8; ``embeddings`` (videos, D); with a head
    ``probabilities`` (``scores`` where it has none), (videos, classes). Videos and views may be any number. The card
    inside says the rest: clip plan, classes, input spec.

    Args:
        path: ends in ``.onnx`` or ``.pt2``.
        head: of this encoder, a linear one (linear, svm, fine-tuned).
    Raises: UsageError for another suffix or head; DataError where the exported graph gives other numbers, or torch
        cannot export the encoder.
    """
    target = check_suffix(format, path)
    if head is not None and not isinstance(head, FittedLinear):
        raise UsageError(
            f"a head of {head.card.protocol!r} cannot be exported, only linear ones can (linear, svm, finetune): "
            "it compares with the training samples themselves"
        )
    for package in ("onnxscript", "onnxruntime") if format == "onnx" else ():
        _package(package)  # asked for before any work
    net, outputs = ClipsToNumbers(encoder, head).eval(), ["embeddings"]
    if head is not None:
        outputs.append("probabilities" if head.has_probabilities or head.card.temperature else "scores")
    card = json.dumps(_card(encoder, head, outputs))
    # Two of each, as one would become a constant of the graph.
    clips = _clips(encoder, 2, 2)
    dims = {"clips": {0: torch.export.Dim("videos", min=1), 1: torch.export.Dim("views", min=1)}}
    with evaluating(encoder), torch.no_grad(), _silent(), replacing(target) as partial:
        try:
            program = torch.export.export(net, (clips,), dynamic_shapes=dims)
            if format == "torch":
                with partial.open("wb") as stream:
                    torch.export.save(program, stream, extra_files={_CARD: card})
            else:
                made: Any = torch.onnx.export(
                    program, (clips,), None, dynamo=True, verbose=False, input_names=["clips"], output_names=outputs
                )
                made.model.metadata_props[_CARD] = card
                made.save(partial)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException, torch.onnx.errors.OnnxExporterError) as error:
            name = encoder.architecture or type(encoder).__name__
            raise DataError(f"torch cannot export {name} to {format}: {str(error).splitlines()[0]}") from error
        return _check_graph(net, partial, format)


def _check_graph(net: ClipsToNumbers, path: Path, format: GraphFormat) -> float:
    """Run the file on ten clips. Raises DataError where a number differs by more than ``TOLERANCE``."""
    clips = _clips(net.encoder, _CHECKED_CLIPS // 2, 1, seed=1), _clips(net.encoder, 1, _CHECKED_CLIPS // 2, seed=2)
    runs = _opened(path, format)
    worst = 0.0
    for batch in clips:
        for wanted, found in zip(net(batch), runs(batch), strict=True):
            difference = np.abs(wanted.numpy().astype(np.float64) - found)
            worst = max(worst, float(difference.max()))
    if not worst <= TOLERANCE:
        raise DataError(
            f"the exported graph gives other numbers: they differ by up to {worst:.2g}; nothing was written"
        )
    return worst


def _opened(path: Path, format: GraphFormat) -> Callable[[Tensor], list[NDArray[Any]]]:
    if format == "torch":
        with path.open("rb") as stream:
            program = torch.export.load(stream).module()
        return lambda clips: [out.numpy() for out in program(clips)]
    session = _package("onnxruntime").InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda clips: list(session.run(None, {"clips": clips.numpy()}))


def _clips(encoder: Encoder, videos: int, views: int, *, seed: int = 0) -> Tensor:
    """Noise in the shape of this encoder's clips."""
    plan = default_plan(encoder.input_spec)
    shape = (videos, views, plan.num_frames, plan.size_px, plan.size_px, 3)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _card(encoder: Encoder, head: Head | None, outputs: list[str]) -> dict[str, object]:
    plan = default_plan(encoder.input_spec) if head is None or head.card.clips is None else head.card.clips
    return {
        "architecture": encoder.architecture,
        "input": "clips: uint8 RGB, (videos, views, frames, height, width, channels)",
        "outputs": outputs,
        "clips": asdict(plan),
        "input_spec": encoder.input_spec.to_card(),
        **({} if head is None else {"label": head.card.label, "classes": [str(c) for c in head.card.classes]}),
    }


def _package(name: str) -> Any:
    return import_extra(name, "onnx", "onnxscript", "onnxruntime", extra="onnx", what="ONNX")


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch's exporter says of packages that are not needed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
