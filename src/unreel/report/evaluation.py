"""What a run's page says of one evaluation."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unreel.core.words import plural
from unreel.report.figures import Drawing, GalleryRow, retrieval_gallery, score_figure
from unreel.tasks.scores import Report, Score


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

    @functools.cached_property
    def gallery(self) -> list[GalleryRow]:
        return retrieval_gallery(self.report.neighbours)

    @property
    def thumbnail_px(self) -> int:
        """Width of a picture 80 pixels high, of the gallery's usual shape."""
        shapes = [t.pixels.shape for r in self.gallery for t in (r.query, *r.neighbours) if t.pixels is not None]
        usual = float(np.median([w / h for h, w, _ in shapes])) if shapes else 4 / 3
        return round(80 * min(1.9, max(0.75, usual)))
