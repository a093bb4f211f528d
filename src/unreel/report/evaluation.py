"""What a run's page says of one evaluation."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unreel.core.words import plural
from unreel.report.figures import Drawing, GalleryRow, retrieval_gallery, score_figure
from unreel.tasks.scores import Report, Score

_MOST_CLASSES = 16


@dataclass
class Evaluation:
    """What the page says of one evaluation; ``file`` names one that says nothing of its data."""

    report: Report
    file: str

    @property
    def name(self) -> str:
        about = self.report.about
        parts = [
            "/".join(Path(about.get("data", "")).parts[-2:]),
            str(about.get("label", self.report.task.get("name", ""))),
        ]
        return ", ".join(part for part in parts if part) or self.file

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What tells it from the others, in words and values."""
        about = self.report.about
        told = [(key, about[key]) for key in ("data", "gallery", "split", "group", "pooling") if about.get(key)]
        return [*told, *([("evaluated", self.report.kept)] if self.report.kept else [])]

    @property
    def tested(self) -> str:
        """What the evaluation's sources are called, in the plural."""
        return plural(str(self.report.task.get("noun", "video")))

    @property
    def scores(self) -> list[Score]:
        return [s for s in self.report.scores if s.encoder == "encoder"]

    @property
    def references(self) -> list[str]:
        return list(dict.fromkeys(name for s in self.scores for name in s.references))

    @property
    def score_figure(self) -> Drawing | None:
        return score_figure(self.report) if any(s.primary for s in self.report.scores) else None

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        return [(score.mark, score.verdict) for score in self.scores if score.primary]

    @property
    def confusions(self) -> list[dict[str, Any]]:
        """Confusion matrices small enough to read, with the share of each row for shading."""
        tables = []
        for confusion in self.report.confusions:
            if 2 <= len(confusion.classes) <= _MOST_CLASSES:
                counts = np.array(confusion.counts, dtype=float)
                shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
                rows = [
                    (name, list(zip(line, share.round(2).tolist(), strict=True)))
                    for name, line, share in zip(confusion.classes, confusion.counts, shares, strict=True)
                ]
                tables.append({"protocol": confusion.protocol, "classes": confusion.classes, "rows": rows})
        return tables

    @functools.cached_property
    def gallery(self) -> list[GalleryRow]:
        return retrieval_gallery(self.report.neighbours)

    @property
    def thumbnail_px(self) -> int:
        """Width of a picture 80 pixels high, of the gallery's usual shape."""
        shapes = [t.pixels.shape for r in self.gallery for t in (r.query, *r.neighbours) if t.pixels is not None]
        usual = float(np.median([w / h for h, w, _ in shapes])) if shapes else 4 / 3
        return round(80 * min(1.9, max(0.75, usual)))
