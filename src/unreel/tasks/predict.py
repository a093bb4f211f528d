"""From a few labels to a label for every file: a head is fitted on the frozen encoder, and predicts."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Share, checked
from unreel.core.errors import DataError, UsageError
from unreel.core.files import replacing, write_whole
from unreel.core.text import first_few, shown
from unreel.core.words import counted
from unreel.data.batch import Fault
from unreel.data.choice import choose_group, choose_label
from unreel.data.columns import ANY_COLUMNS, Columns
from unreel.data.index import index
from unreel.data.manifest import Manifest, Source, subfolders
from unreel.data.sampling import ClipPlan
from unreel.data.split_names import split_role
from unreel.data.tables import PARQUET_SUFFIXES
from unreel.data.windows import windowed
from unreel.nn.encoder import Encoder
from unreel.nn.foreign import check_named
from unreel.nn.weights import save_encoder
from unreel.protocols.calibration import FOLDS, fit_calibrated
from unreel.protocols.clips import ManifestClips, default_plan
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.features import Embeddings, embed_all
from unreel.protocols.head import HEADS_FOLDER, Head, HeadCard, Predictions, head_path, save_head, with_card
from unreel.protocols.linear import LinearProbe
from unreel.protocols.pooling import Pooling, PoolingLike
from unreel.protocols.samples import FeatureSet, check_unique
from unreel.protocols.store import encoder_digest
from unreel.tasks.profiles import AnyProtocol
from unreel.tasks.spans import Span, merge_spans, plain_spans, write_spans
from unreel.tasks.trained import Adapted, Examples, TrainedProtocol, adapt_calibrated

ABSTAIN_BELOW = 0.5
"""A label that is less likely than this is more likely wrong than right."""

TABLE_SUFFIXES = (".csv", ".parquet", ".json")
_SHOWN = 5
_FEW = 100
_log = logging.getLogger(__name__)


class Predicted(NamedTuple):
    """One file, or one window of it: its likeliest label, how likely that is, and the seconds it speaks of.

    ``probability`` is calibrated where the head is, and NaN where it has none. The span is that of the whole file where
    no other is asked for; ``end_s`` is ``None`` where it is not known, and both are for an image. ``abstained``: the
    probability is below what was asked for, and the label is better left open.
    """

    path: str
    label: str
    probability: float
    start_s: float | None
    end_s: float | None
    abstained: bool = False


@dataclass(frozen=True)
class PredictionTable:
    """A label for every file that could be read, in the order of the data.

    Attributes:
        rows: one for each file, or each window. card: of the head that predicted; ``head_file``: where it was kept.
        faults: what could not be read and why. num_asked: rows in all, with those. noun: what a file is called.
        spans: what windows say together, see ``tasks.spans``; empty where no windows were asked for.
    """

    rows: tuple[Predicted, ...]
    card: HeadCard
    faults: tuple[Fault, ...]
    num_asked: int
    noun: str
    head_file: Path | None = None
    spans: tuple[Span, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def to_plain(self) -> dict[str, object]:
        """Plain values, as JSON takes them."""
        rows = [{**r._asdict(), "probability": None if np.isnan(r.probability) else r.probability} for r in self.rows]
        card = self.card
        about: dict[str, object] = {"protocol": card.protocol, "label": card.label, "classes": list(card.classes)}
        about["expected"] = None if card.expected is None else asdict(card.expected)
        return {
            "head": {**about, "temperature": card.temperature, "notes": list(card.notes)},
            "head_file": None if self.head_file is None else str(self.head_file),
            "predictions": rows,
            "spans": plain_spans(self.spans),
            "unreadable": [{"path": fault.path, "message": fault.message} for fault in self.faults],
        }

    def write_spans(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write the spans: .csv, .json, .vtt (WebVTT) or .eaf (ELAN) by its suffix, see ``tasks.spans.write_spans``."""
        return write_spans(self.spans, path, name=self.card.label or "label")

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the table, all or nothing: CSV, Parquet or JSON by its suffix. Raises UsageError for another."""
        target = check_predictions_suffix(path)
        columns = {name: [getattr(row, name) for row in self.rows] for name in Predicted._fields}
        if target.suffix.lower() == ".json":
            return write_whole(target, json.dumps(self.to_plain(), indent=1) + "\n")
        import pyarrow as pa
        from pyarrow import csv, parquet

        kinds = (pa.string(), pa.string(), pa.float64(), pa.float64(), pa.float64(), pa.bool_())
        arrays = [pa.array(values, kind) for values, kind in zip(columns.values(), kinds, strict=True)]
        table = pa.table(arrays, names=list(columns))
        with replacing(target) as partial:
            (csv.write_csv if target.suffix.lower() == ".csv" else parquet.write_table)(table, partial)
        return target


def _weights(said: Predictions) -> NDArray[np.float64]:
    """What windows bring to their spans (N, C): probabilities, or a vote for the label."""
    if said.probabilities is not None:
        return said.probabilities
    votes: NDArray[np.float64] = np.equal.outer(said.labels, said.card.classes).astype(np.float64)
    return votes


def check_predictions_suffix(path: str | os.PathLike[str]) -> Path:
    """Raise UsageError unless predictions can be written to this file."""
    target = Path(path)
    if target.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(f"{target}: predictions are written as {', '.join(TABLE_SUFFIXES)}")
    return target


# --- fitting ----------------------------------------------------------------------------------------------------


def open_labels(
    labels: Source, data: Manifest, *, columns: Columns = ANY_COLUMNS, least: int = 2
) -> tuple[Manifest, str]:
    """The labelled rows but those of a test split, and the name of their label.

    The paths of a table are seen from the data's folder, or from the table's own.

    Args:
        labels: whatever makes a manifest. data: what will be predicted.
        columns: those of the labels that are meant; as a label "label", or the only one there is.
        least: how many classes there must be.
    Raises: DataError for files that are in neither place, no labels, or too few classes; UsageError where several
        columns could be meant.
    """
    found = choose_group(choose_label(_opened(labels, data, columns)))
    name, where = found.label, os.path.basename(found.table or found.root)
    kept = [i for i, row in enumerate(found) if row.labels.get(name) and split_role(row.split) != "test"]
    tested = sum(bool(row.labels.get(name)) for row in found) - len(kept)
    if tested:
        _log.info("%s: %s of a test split left out", where, counted(tested, "labelled row"))
    classes = Counter(found[i].labels[name] for i in kept)
    if len(classes) < least:
        only = f"all {counted(len(kept), 'labelled row')} are {next(iter(classes))!r}" if classes else "no row is left"
        raise DataError(f"{where}: {only}; a head needs at least two classes to tell apart")
    return found.subset(kept), name


def _opened(labels: Source, data: Manifest, columns: Columns) -> Manifest:
    if not isinstance(labels, str | os.PathLike) or not Path(labels).is_file():
        return Manifest.open(labels, columns=columns)
    file = Path(labels)
    suffix = file.suffix.lower()
    if suffix not in (".csv", ".tsv", ".txt", *PARQUET_SUFFIXES):
        raise UsageError(f"{file}: labels are a .csv or .parquet table with the columns path and label")
    read = Manifest.from_parquet if suffix in PARQUET_SUFFIXES else Manifest.from_csv
    table = read(file, root=data.root, columns=columns, check=False)
    missing = table.missing_files()
    beside = replace(table, root=os.path.abspath(file.parent))
    for root in (data.root, beside.root, *subfolders(beside.root)):
        if not replace(table, root=root).missing_files():
            return Manifest.open(file, root=root, columns=columns)
    places = shown(data.root) + ("" if beside.root == data.root else f" or {shown(beside.root)}")
    names = first_few([repr(shown(name)) for name in missing], _SHOWN)
    advice = f"Write paths as seen from the folder of the data, such as {shown(data.relative(0))!r}"
    raise DataError(
        f"{file.name}: {counted(len(missing), 'file')} that it names cannot be found below {places}: {names}. {advice}"
    )


def fit_head(
    encoder: Encoder,
    labelled: Manifest,
    *,
    protocol: AnyProtocol,
    label: str = "label",
    group: str | None = None,
    clips: ClipPlan | None = None,
    pooling: PoolingLike = None,
    others: int | None = None,
    seed: int = 0,
    compute: Compute = USUAL,
) -> Adapted:
    """A calibrated head fitted on labelled files, which says how accurate to expect it, with its encoder.

    The encoder stays as it is, or a copy is trained by a protocol that does so ("finetune"). Rows of the split "val"
    are what settings are chosen on; without any, a part is cut by whole groups. Logistic regression on fewer than a
    hundred files chooses nothing: a few files cannot tell its settings apart.

    Args:
        labelled: every row has the label. group: a group column; ``None``: "group", or the only one there is.
        clips: how files are cut; ``None``: as the encoder was trained. pooling: as ``embed``; of a frozen encoder.
        others: how many files the head will be asked about.
    Raises: DataError for files that cannot be read, are listed twice, or leave a single class.
    """
    labelled = choose_group(labelled, group)
    plan = clips if clips is not None else default_plan(encoder.input_spec)
    pooled = Pooling.of(pooling)
    source = ManifestClips(labelled, plan, label=label, decoder=compute.decoder)
    found = embed_all([encoder], source, pooling=pooled, compute=compute)[0]
    check_unique(found.ids)
    assert found.labels is not None
    groups, noun = _units(found, labelled)
    held = np.array([split_role(labelled[i].split) == "val" for i in found.rows])
    held &= not held.all()
    how: dict[str, Any] = {"noun": noun, "others": others, "seed": seed}
    if isinstance(protocol, TrainedProtocol):
        examples = Examples(labelled.subset(found.rows), label, found.ids if groups is None else groups)
        given = examples.select(held) if held.any() else None
        train = examples.select(~held)
        tuned, head = adapt_calibrated(protocol, encoder, train, given, plan=plan, **how, compute=compute)
    else:
        samples = FeatureSet(found.views, found.labels, groups, found.ids)
        if isinstance(protocol, LinearProbe) and protocol.c is None and len(samples) < _FEW:
            protocol = replace(protocol, c=1.0)
        chosen = samples.select(held) if held.any() else None
        tuned, head = encoder, fit_calibrated(protocol, samples.select(~held), validation=chosen, **how)
        digest = encoder_digest(encoder)
        head = with_card(head, label=label, clips=plan, layer=encoder.last_stage, pooling=pooled.name, encoder=digest)
    if found.faults:
        lost = f"{counted(len(found.faults), 'labelled file')} could not be read: {found.faults[0].message}"
        head = with_card(head, notes=(*head.card.notes, lost))
    return Adapted(tuned, head)


def keep(
    adapted: Adapted,
    target: str | os.PathLike[str],
    *,
    source: Encoder,
    where: Mapping[str, str],
) -> tuple[Adapted, Path]:
    """Write a head, with its encoder beside it where that was trained; returns both, and the head's file.

    Args:
        target: a file, or the folder of a run, or another that exists.
        source: what the head was fitted on. Another encoder was trained for the head, and is written too.
        where: what the card says of the source's place, ``encoder_file`` or ``encoder_name``; empty for neither.
    """
    tuned, head = adapted
    file = head_path(head, target)
    if tuned is not source:
        card = {"trained_on": {"label": head.card.label, "protocol": head.card.protocol}}
        beside = save_encoder(tuned, file.with_name(f"{file.stem}-encoder{file.suffix}"), card=card)
        where = {"encoder_file": os.path.abspath(beside)}
    head = with_card(head, **where)
    return Adapted(tuned, head), save_head(head, target)


def _units(found: Embeddings, labelled: Manifest) -> tuple[NDArray[Any] | None, str]:
    """What must stay together, and what one is called: groups, else files, else spans where they are of few files."""
    if found.groups is not None:
        return np.where(found.groups == "", np.char.add("file:", found.ids), found.groups), "group"
    files = np.array([labelled.relative(int(i)) for i in found.rows])
    count = len(np.unique(files))
    if count == len(files):
        return None, "file"
    return (files, "file") if count >= FOLDS else (None, "span")


def num_others(data: Manifest, labelled: Manifest) -> int:
    """How many rows of the data are no labelled files."""
    known = {os.path.abspath(labelled.absolute(i)) for i in range(len(labelled))}
    return sum(os.path.abspath(data.absolute(i)) not in known for i in range(len(data)))


def heads_beside(labels: Source) -> Path | None:
    """The folder for heads of encoders that are no run: beside a table of labels; ``None`` for labels in memory."""
    if not isinstance(labels, str | os.PathLike) or not Path(labels).is_file():
        return None
    folder = Path(labels).parent / HEADS_FOLDER
    folder.mkdir(exist_ok=True)
    return folder


def encoder_file(head: Head) -> str:
    """Where the encoder of a head is, or its name. Raises DataError where it is not known, or no longer there."""
    card = head.card
    if card.encoder_name:
        check_named(card.encoder_name)
        return card.encoder_name
    if not card.encoder_file or not os.path.isfile(card.encoder_file):
        where = f"is not at {shown(card.encoder_file)}" if card.encoder_file else "was not kept in a file"
        raise DataError(f"the encoder of this head {where}: name it with --encoder FILE (encoder= in Python)")
    return card.encoder_file


# --- predicting -------------------------------------------------------------------------------------------------


@checked
def predict_table(
    head: Head,
    encoder: Encoder,
    data: Source,
    *,
    window: float | None = None,
    every: float | None = None,
    abstain_below: Share = ABSTAIN_BELOW,
    compute: Compute = USUAL,
) -> PredictionTable:
    """What a head says of every file.

    Args:
        head: fitted on this encoder's embeddings; the card says of which clips.
        data: a folder, a manifest or a list of paths.
        window, every: seconds; one prediction for each window of a video, see ``windowed``; ``None``: for each row.
        abstain_below: a label that is less likely than this is marked as ``abstained``.
    Raises: UsageError for windows that cannot be, a head of another encoder, or one that predicts no labels; DataError
        as ``embed``.
    """
    card = head.card
    digest = encoder_digest(encoder)
    if card.encoder and card.encoder != digest:
        raise UsageError(
            f"the head was fitted on the encoder {card.encoder[:12]}, this one is {digest[:12]}: give the encoder it "
            "was fitted on, or fit a new head on this one"
        )
    manifest = Manifest.open(windowed(data, window, every))
    manifest.check_files()
    if not manifest.only_images:
        manifest = index(manifest).manifest
    plan = card.clips if card.clips is not None else default_plan(encoder.input_spec)
    source = ManifestClips(manifest, plan, decoder=compute.decoder)
    layer, pooling = card.layer or None, card.pooling or None
    found = embed_all([encoder], source, layer=layer, pooling=pooling, compute=compute)[0]
    said = head.predict(found.views).calibrated()
    best = np.full(len(found), np.nan) if said.probabilities is None else said.probabilities.max(1)
    rows = []
    for i, label, probability in zip(found.rows, said.labels, best, strict=True):
        row = manifest[i]
        whole = row.facts is not None and not manifest.only_images
        start = row.start_s if row.start_s is not None or not whole else 0.0
        end = row.end_s if row.end_s is not None or row.facts is None or not whole else row.facts.duration_s
        unsure = bool(probability < abstain_below)
        rows.append(Predicted(shown(manifest.relative(i)), str(label), float(probability), start, end, unsure))
    spans: tuple[Span, ...] = ()
    if window is not None:
        spans = merge_spans([(row.path, row.start_s, row.end_s) for row in rows], card.classes, _weights(said))
    return PredictionTable(tuple(rows), card, found.faults, found.num_asked, manifest.noun, spans=spans)
