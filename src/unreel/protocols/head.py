"""The head contract: what a protocol leaves. A head predicts without labels, is saved, and says what it was made from.

A head file is safetensors: the arrays as tensors, the card and the plain values in its header. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from unreel.core.checks import from_plain
from unreel.core.errors import DataError
from unreel.core.files import replacing
from unreel.core.registry import Registry
from unreel.data.sampling import ClipPlan
from unreel.metrics.retrieval import Neighbours, Similarity
from unreel.protocols.samples import Inputs

HEADS_FOLDER = "heads"
_HEADER = "unreel_head"
_FORMAT = 1
# A probability of 0 has no logarithm; no score depends on this.
_SMALLEST = 1e-12

PredictionKind: TypeAlias = Literal["classes", "values", "boxes", "maps", "neighbours"]
H = TypeVar("H", bound="Head")


@dataclass(frozen=True)
class Expected:
    """How often a head will be right on other files, as far as its labels tell.

    ``accuracy`` was measured on ``n`` labelled samples in ``groups`` groups. ``low`` to ``high`` is a prediction
    interval: the share that is right among other files lies in it in ``level`` of all cases. ``how``: how it was
    measured.
    """

    accuracy: float
    low: float
    high: float
    level: float
    n: int
    groups: int
    how: str = ""

    def __str__(self) -> str:
        return (
            f"expected accuracy {self.accuracy:.2f}: in {self.level:.0%} of such cases, between {self.low:.0%} and "
            f"{self.high:.0%} of the labels for other files are right ({self.how})"
        )


@dataclass(frozen=True)
class HeadCard:
    """What a head is and what it was made from.

    Attributes:
        protocol: the name of what fitted it ("linear").
        label: the label it answers for.
        classes, counts: the classes, in the order of its outputs, and the training samples of each: all that chance
            may know.
        clips: how its inputs were cut; ``layer`` and ``pooling``: how they were made of a clip; ``encoder``: the
            digest of the encoder that made them, ``encoder_file`` where that was (its absolute path; a head's file
            keeps it as seen from its own folder), or ``encoder_name`` of one that has weights. ``None`` and empty where
            a head was fitted on plain arrays.
        temperature: what calibrated probabilities divide the logits by; ``None`` without calibration.
        expected: the accuracy to expect on other files; ``None`` where it was not measured.
        settings: what was chosen and how (C, k, size of the validation part …), plain values.
        notes: what a reader should know (an optimiser that did not converge).
    """

    protocol: str
    label: str = ""
    classes: tuple[Any, ...] = ()
    counts: tuple[int, ...] = ()
    clips: ClipPlan | None = None
    layer: str = ""
    pooling: str = ""
    encoder: str = ""
    encoder_file: str = ""
    encoder_name: str = ""
    temperature: float | None = None
    expected: Expected | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class GalleryOrder:
    """The order of a gallery of G samples for each of N queries, kept as what makes it: itself it would be N × G.

    Attributes:
        queries, vectors: (N, D) and (G, D), compared by ``similarity``.
        labels, ids: (G,) of the gallery.
        query_ids, query_groups, groups: rows of the same id, or group, are never neighbours; ``None``: not excluded.
        ks: how many neighbours are looked at, for each hit@k.
    """

    queries: NDArray[Any]
    vectors: NDArray[Any]
    labels: NDArray[Any]
    ids: NDArray[Any]
    similarity: Similarity
    ks: tuple[int, ...]
    query_ids: NDArray[Any] | None = None
    query_groups: NDArray[Any] | None = None
    groups: NDArray[Any] | None = None

    @property
    def exclusions(self) -> dict[str, Any]:
        """What a query must not find, as ``metrics.retrieval`` takes it."""
        return {
            "query_ids": self.query_ids,
            "gallery_ids": None if self.query_ids is None else self.ids,
            "query_groups": self.query_groups,
            "gallery_groups": None if self.query_groups is None else self.groups,
        }


@dataclass(frozen=True)
class Predictions:
    """What a head says of N samples, made without their labels.

    Attributes:
        kind: which of the fields below are filled. card: of the head that predicted.
        scores: "classes": (N, C), what classes are ranked by, higher is likelier. probabilities: (N, C), the same
            where the head has probabilities; ``None`` of a support vector machine.
        values: "values": (N,) or (N, K). boxes: "boxes": (N, K, 5), x, y, width, height and score.
        maps: "maps": (N, C, T, h, w) probabilities of the classes at each place.
        neighbours, gallery: "neighbours": rows of the gallery, nearest first, and their labels and ids.
    """

    kind: PredictionKind
    card: HeadCard
    scores: NDArray[np.float64] | None = None
    probabilities: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None
    boxes: NDArray[np.float64] | None = None
    maps: NDArray[np.float32] | None = None
    neighbours: Neighbours | None = None
    gallery: GalleryOrder | None = None

    def __len__(self) -> int:
        kinds = {"classes": self.scores, "neighbours": None if self.gallery is None else self.gallery.queries}
        filled: NDArray[Any] | None = kinds.get(self.kind, getattr(self, self.kind, None))
        assert filled is not None
        return len(filled)

    @property
    def classes(self) -> NDArray[Any]:
        """(C,) names of the classes."""
        return np.array(self.card.classes)

    @property
    def labels(self) -> NDArray[Any]:
        """The likeliest class: of each sample (N,), of each place of a map (N, T, h, w), or the nearest neighbour's.

        Of equally likely classes it is the first.
        """
        if self.kind == "neighbours":
            assert self.neighbours is not None
            assert self.gallery is not None
            nearest: NDArray[Any] = self.gallery.labels[self.neighbours.indices[:, 0]]
            return nearest
        table = self.scores if self.kind == "classes" else self.maps
        assert table is not None
        named: NDArray[Any] = self.classes[table.argmax(1)]
        return named

    @property
    def logits(self) -> NDArray[np.float64]:
        """(N, C): the logarithm of the probabilities, or the scores of a head without probabilities."""
        assert self.scores is not None
        if self.probabilities is None:
            return self.scores
        logs: NDArray[np.float64] = np.log(np.maximum(self.probabilities, _SMALLEST))
        return logs

    def calibrated(self) -> Predictions:
        """Probabilities at the card's temperature; as they are where the card has none. Scores stay."""
        if self.card.temperature is None or self.scores is None:
            return self
        return replace(self, probabilities=softmax(self.logits / self.card.temperature))


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    shares: NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return shares


@runtime_checkable
class Head(Protocol):
    """What a protocol leaves: a frozen data class of a card, arrays and plain values, which predicts without labels.

    Pure: a sample's prediction depends on it alone. ``form`` is the name that its class is registered by in ``HEADS``.
    """

    form: ClassVar[str]

    @property
    def card(self) -> HeadCard:
        """What it is and what it was made from."""

    def predict(self, inputs: Inputs) -> Predictions:
        """Predictions in the order given. Raises UsageError for inputs of another width than it was fitted on."""


HEADS: Registry[type[Any]] = Registry("head")
"""Classes of heads by form, for ``load_head``."""


def with_card(head: H, **facts: Any) -> H:
    """The same head with other entries on its card: ``with_card(head, label="action", encoder=digest)``."""
    return cast(H, replace(cast(Any, head), card=replace(head.card, **facts)))


def save_head(head: Head, path: str | PathLike[str]) -> Path:
    """Write a head to one file, all or nothing; returns its path.

    Args:
        path: a file, or a folder that exists (then a file named by protocol and label inside it; in the folder
            ``heads`` of a run).
    """
    target, card = head_path(head, path), asdict(head.card)
    if head.card.encoder_file:
        card["encoder_file"] = os.path.relpath(head.card.encoder_file, os.path.abspath(target.parent))
    tensors: dict[str, NDArray[Any]] = {}
    plain: dict[str, object] = {}
    text: list[str] = []
    for name in (f.name for f in fields(cast(Any, head)) if f.name != "card"):
        value = getattr(head, name)
        if not isinstance(value, np.ndarray):
            plain[name] = value
        elif value.dtype.kind == "U":  # as numbers of letters, (N, longest)
            text.append(name)
            tensors[name] = np.ascontiguousarray(value)[:, None].view(np.uint32)
        else:
            tensors[name] = np.ascontiguousarray(value)
    header = {"format": _FORMAT, "head": head.form, "card": card, "plain": plain, "text": text}
    with replacing(target, durable=True) as partial:
        partial.write_bytes(save(tensors, metadata={_HEADER: json.dumps(header, default=lambda v: v.item())}))
    return target


def head_path(head: Head, path: str | PathLike[str]) -> Path:
    """Where ``save_head`` writes a head."""
    target = Path(path)
    if not target.is_dir():
        return target
    words = re.sub(r"[^\w.-]+", "_", "-".join(part for part in (head.card.protocol, head.card.label) if part))
    folder = target / HEADS_FOLDER if (target / "config.yaml").is_file() else target
    return folder / f"{words}.safetensors"


def load_head(path_or_run: str | PathLike[str]) -> Head:
    """The head of a file, or the one in a run's (or any) folder.

    Raises: DataError where there is none or several, and for a file that is damaged or no head.
    """
    file = _head_file(Path(path_or_run))
    try:
        with safe_open(file, framework="numpy") as handle:
            text = (handle.metadata() or {}).get(_HEADER)
            # Copies lie as NumPy allocates them: sums over views into the file may end in another bit.
            arrays = {name: handle.get_tensor(name).copy() for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} is not a readable head: {error}. Copy the file again, or fit the head again") from None
    if text is None:
        raise DataError(f"{file} is no head: `unreel predict {file} DATA --labels LABELS` fits one on an encoder")
    header = json.loads(text)
    if int(header["format"]) > _FORMAT:
        raise DataError(f"{file} was written by a newer unreel; upgrade to read it")
    try:
        for name in header["text"]:
            arrays[name] = arrays[name].view(f"<U{arrays[name].shape[1]}")[:, 0]
        card = from_plain(HeadCard, header["card"])
        if card.encoder_file:
            card = replace(card, encoder_file=os.path.abspath(file.parent / card.encoder_file))
        head: Head = HEADS[header["head"]](card, **arrays, **header["plain"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file} is not a complete head ({error}): fit it again") from None
    return head


def _head_file(path: Path) -> Path:
    if not path.is_dir():
        if not path.is_file():
            raise DataError(f"no head at {path}; expected a .safetensors file that `unreel predict` wrote, or a run")
        return path
    folder = path / HEADS_FOLDER if (path / HEADS_FOLDER).is_dir() else path
    found = [file for file in sorted(folder.glob("*.safetensors")) if is_head(file)]
    if not found:
        raise DataError(f"no head in {folder}; `unreel predict {path} DATA --labels LABELS` fits one")
    if len(found) > 1:
        raise DataError(f"{folder} holds {len(found)} heads; name one of {', '.join(file.name for file in found)}")
    return found[0]


def is_head(file: Path) -> bool:
    """Whether a file is a head, told by its header."""
    try:
        with safe_open(file, framework="numpy") as handle:
            return _HEADER in (handle.metadata() or {})
    except (SafetensorError, OSError):
        return False
