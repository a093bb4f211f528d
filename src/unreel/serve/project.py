"""What the page works on: one folder's embeddings, the labels given so far, and the head that was last trained."""

from __future__ import annotations

import csv
import io
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError, UsageError
from unreel.core.files import write_whole
from unreel.core.text import shown
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import Encoder
from unreel.protocols.calibration import fit_calibrated
from unreel.protocols.clips import as_clip_source, default_plan
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.features import Embeddings, embed_all
from unreel.protocols.head import Head, save_head, with_card
from unreel.protocols.linear import LinearProbe
from unreel.protocols.retrieval import most_like
from unreel.protocols.samples import FeatureSet
from unreel.protocols.store import encoder_digest
from unreel.tasks.suggest import most_telling

LABELS_FILE = "labels.csv"
HEAD_FILE = "head.safetensors"
_HEADER = ("path", "label", "start_s", "end_s")
_LONGEST_LABEL = 200


@dataclass(frozen=True)
class Label:
    """What somebody said of a row of the data, or of a span of it in seconds."""

    row: int
    label: str
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class Guess:
    """What the head says of a row."""

    row: int
    label: str
    probability: float


class Project:
    """A folder that can be searched and labelled. Safe to use from several threads.

    Args:
        encoder: embeds the data, and spans that are labelled. data: a folder, a manifest or a list of paths.
        out: where labels and the head are kept; labels that are there already are read.
    Raises: DataError for data that cannot be read at all, or a table of labels that names other files.
    """

    def __init__(
        self, encoder: Encoder, data: Source, *, out: str | os.PathLike[str], compute: Compute = USUAL
    ) -> None:
        self.encoder, self.compute, self.out = encoder, compute, Path(out)
        self.manifest = Manifest.open(data)
        self.plan: ClipPlan = default_plan(encoder.input_spec)
        self.embeddings = self._embed(self.manifest)
        self._place = {int(row): i for i, row in enumerate(self.embeddings.rows)}
        self._lock = threading.RLock()
        self._labels: list[Label] = []
        self._spans: dict[tuple[int, float, float], NDArray[np.float32]] = {}
        self.head: Head | None = None
        self.guesses: list[Guess] = []
        self.out.mkdir(parents=True, exist_ok=True)
        if self.labels_file.is_file():
            self._read()

    def _embed(self, manifest: Manifest) -> Embeddings:
        source = as_clip_source(manifest, self.encoder, self.plan, decoder=self.compute.decoder)
        return embed_all([self.encoder], source, compute=self.compute)[0]

    @property
    def labels_file(self) -> Path:
        return self.out / LABELS_FILE

    @property
    def rows(self) -> list[int]:
        """The rows that could be read."""
        return [int(row) for row in self.embeddings.rows]

    def name(self, row: int) -> str:
        """A row's path as written. Raises UsageError for one that is not there, or could not be read."""
        self._index(row)
        return shown(self.manifest.relative(row))

    def file(self, row: int) -> Path:
        """Where a row's file is; errors as ``name``."""
        self._index(row)
        return self.manifest.absolute(row)

    def _index(self, row: int) -> int:
        if row not in self._place:
            raise UsageError(f"there is no clip {row}; there are {len(self._place)}")
        return self._place[row]

    # ------------------------------------------------------------------------------------------------------- searching

    def search(self, wanted: Sequence[int], unwanted: Sequence[int] = (), *, top: int = 24) -> list[tuple[int, float]]:
        """Rows most like the wanted ones and least like the unwanted ones, best first, with their cosine."""
        if not wanted:
            raise UsageError("choose at least one clip to search for")
        vectors = self.embeddings.vectors
        examples = [vectors[[self._index(row) for row in rows]] for rows in (wanted, unwanted)]
        never = np.isin(self.embeddings.rows, [*wanted, *unwanted])
        return [(self.rows[i], likeness) for i, likeness in most_like(vectors, *examples, k=top, never=never)]

    # -------------------------------------------------------------------------------------------------------- labelling

    @property
    def labels(self) -> list[Label]:
        with self._lock:
            return list(self._labels)

    def label(self, row: int, label: str, start_s: float | None = None, end_s: float | None = None) -> None:
        """Say what a row, or a span of it, shows; an empty label takes back what was said of it. Kept at once.

        Raises: UsageError for a row that is not there, a label that is too long, or a span that ends before it starts.
        """
        self._index(row)
        name = label.strip()
        if len(name) > _LONGEST_LABEL or any(not letter.isprintable() for letter in name):
            raise UsageError(f"a label is one line of at most {_LONGEST_LABEL} letters")
        if (start_s is None) != (end_s is None):
            raise UsageError("a span has a start and an end")
        if start_s is not None and end_s is not None and not 0 <= start_s < end_s < float("inf"):
            raise UsageError(f"a span starts at 0 s or later and ends after its start, got {start_s:g} to {end_s:g} s")
        with self._lock:
            same = (row, start_s, end_s)
            kept = [known for known in self._labels if (known.row, known.start_s, known.end_s) != same]
            self._labels = [*kept, Label(row, name, start_s, end_s)] if name else kept
            self._write()

    def _write(self) -> None:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_HEADER)
        for known in self._labels:
            span = ("", "") if known.start_s is None else (f"{known.start_s:.3f}", f"{known.end_s:.3f}")
            table.writerow((self.manifest.relative(known.row), known.label, *span))
        write_whole(self.labels_file, text.getvalue())

    def _read(self) -> None:
        rows = {self.manifest.relative(row): row for row in self.rows}
        with self.labels_file.open(encoding="utf-8", newline="") as stream:
            for line, entry in enumerate(csv.DictReader(stream), 2):
                row = rows.get(entry.get("path", ""))
                if row is None or not entry.get("label"):
                    raise DataError(
                        f"{self.labels_file}:{line}: {shown(str(entry.get('path')))!r} is no file of this data with a "
                        "label. Take the line out, or choose another folder for the labels with --out"
                    )
                span = (float(entry["start_s"]), float(entry["end_s"])) if entry.get("start_s") else (None, None)
                self._labels.append(Label(row, entry["label"], *span))

    # --------------------------------------------------------------------------------------------------------- training

    def train(self) -> dict[str, Any]:
        """Fit a calibrated head on the labels and say what every row is; returns what was learned from, in plain words.

        Raises: DataError for fewer than two labels of each of two classes.
        """
        with self._lock:
            given = list(self._labels)
            counts = Counter(known.label for known in given)
            if sum(count >= 2 for count in counts.values()) < 2:
                raise DataError("a head needs at least two classes with two labelled clips each")
            samples = FeatureSet(
                np.stack([self._vector(known) for known in given]),
                np.array([known.label for known in given]),
                np.array([f"file:{self.manifest.relative(known.row)}" for known in given]),
            )
            head = fit_calibrated(LinearProbe(c=1.0), samples)
            head = with_card(head, clips=self.plan, encoder=encoder_digest(self.encoder), layer=self.encoder.last_stage)
            self.head = head
            save_head(head, self.out / HEAD_FILE)
            said = head.predict(self.embeddings.views).calibrated()
            assert said.probabilities is not None
            best = said.probabilities.max(1)
            self.guesses = [
                Guess(row, str(label), float(p)) for row, label, p in zip(self.rows, said.labels, best, strict=True)
            ]
            return {"labels": dict(counts), "clips": len(self.guesses), "notes": list(head.card.notes)}

    def _vector(self, known: Label) -> NDArray[np.float32]:
        if known.start_s is None or known.end_s is None:
            vector: NDArray[np.float32] = self.embeddings.vectors[self._index(known.row)]
            return vector
        key = (known.row, known.start_s, known.end_s)
        if key not in self._spans:
            part = replace(self.manifest[known.row], start_s=known.start_s, end_s=known.end_s)
            found = self._embed(replace(self.manifest, rows=(part,)))
            if not len(found):
                raise DataError(f"{self.name(known.row)}: {found.faults[0].message}")
            self._spans[key] = found.vectors[0]
        return self._spans[key]

    def most_telling(self, count: int = 24) -> list[int]:
        """Unlabelled rows that stand for most of what no label covers, and what the head is unsure of more so."""
        labelled = sorted({self._index(known.row) for known in self.labels})
        unsure = np.array([1 - guess.probability for guess in self.guesses]) if self.guesses else None
        return [self.rows[i] for i in most_telling(self.embeddings.vectors, labelled, count, unsure=unsure)]
