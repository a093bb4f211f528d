"""One self-contained page about a run: what was run, what it is worth, how it went, and how to do it again."""

from __future__ import annotations

import base64
import functools
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from unreel.core.errors import DataError, UnreelError
from unreel.core.files import check_file, write_whole
from unreel.core.settings import read_origins
from unreel.core.strict_yaml import Sections
from unreel.core.text import shown
from unreel.core.words import counted, plural
from unreel.data.batch import Batch
from unreel.data.columns import ColumnsLike
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import IntervalDistribution, IntervalKind
from unreel.media import encode_image
from unreel.methods.registry import chance_levels
from unreel.nn.weights import read_card
from unreel.protocols.compute import Compute, sorted_options
from unreel.report.figures import Drawing, contact_sheet, curves, interval_figure, score_figure
from unreel.report.overview import Overview, overview
from unreel.report.pages import Clip, clip_of, date, render_page
from unreel.tasks.scores import Mark, Report, Score, kept_reports
from unreel.tasks.task import source_name
from unreel.train.health import findings
from unreel.train.run import REPORT_FILE, Run, open_run

VIEWS_FILE = "views.png"
MARKS: tuple[Mark, ...] = ("bad", "open", "good")
"""In the order in which a reader should learn of them."""
_MOST_FAULTS = 50
_MOST_QUERIES = 12  # with their neighbours, on a page
_THUMBNAIL_PX = 112


def save_views(run_dir: str | os.PathLike[str], views: Batch | Sequence[Any]) -> Path:
    """Keep a contact sheet of augmented views in a run's directory, for its report. See ``contact_sheet``."""
    return write_whole(Path(run_dir) / VIEWS_FILE, encode_image(contact_sheet(views)))


def write_report(
    run_dir: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    data: Source | None = None,
    columns: ColumnsLike = None,
    most: int = 200,
    **options: Any,
) -> Path:
    """Write ``report.html`` from what a run left in its directory; parts that are not there say how to get them.

    The page needs no network and no other file. It reads config.yaml, metrics.jsonl, faults.jsonl, environment.json,
    the encoder's card, the evaluations in scores/, views.png, and overview.json, which ``data`` makes.

    Args:
        run_dir: the run.
        out: another file to write.
        data: videos or images to show as the encoder sees them, without labels: a map, clusters, near-duplicates.
        columns: which columns of their table are meant. most: at most so many of them.
        options: device, workers, batch_size, store and others, see ``Compute``.

    Returns: the page's path. Raises: DataError when the directory holds no run.
    """
    run = open_run(run_dir)
    target = Path(out) if out is not None else run.path / REPORT_FILE
    check_file(target)
    if data is not None:
        (compute,) = sorted_options(options, Compute)
        manifest = Manifest.open(data, columns=columns)
        found = overview(run.load_encoder(), manifest, source=source_name(data), most=most, compute=compute)
        found.keep(run.path)
    return write_whole(target, render(run))


def render(run: Run) -> str:
    """The page as text."""
    page = _Page(run)
    return render_page("report.html.jinja", title=page.name, page=page)


@dataclass(frozen=True)
class Setting:
    """One line of config.yaml, with where its value came from."""

    section: str
    name: str
    value: str
    origin: str


@dataclass
class Evaluation:
    """What the page says of one evaluation; ``file`` names one that says nothing of its data."""

    report: Report
    file: str
    num_queries: int = _MOST_QUERIES

    @property
    def name(self) -> str:
        about = self.report.about
        label = str(about.get("label", self.report.task.get("name", "")))
        parts = ["/".join(Path(about.get("data", "")).parts[-2:]), f"label {label}" if label else ""]
        return ", ".join(part for part in parts if part) or self.file

    @property
    def when(self) -> str:
        """Which split was tested, and when."""
        split, day = self.report.about.get("split"), date(self.report.kept)
        return "; ".join([*([f"split: {split}"] if split else []), *([f"evaluated on {day}"] if day else [])])

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
    def verdicts(self) -> list[tuple[Mark, str]]:
        """A mark and a sentence per protocol, decided losses first."""
        return sorted(((s.mark, s.verdict) for s in self.scores if s.primary), key=lambda v: MARKS.index(v[0]))

    @property
    def mark(self) -> Mark:
        """The worst that is decided of any protocol, against other encoders too."""
        asked = [s for s in self.scores if s.primary]
        if any(s.mark == "bad" or any(s.word(name) == "worse" for name in s.differences) for s in asked):
            return "bad"
        return asked[0].mark if asked else "open"

    @property
    def sentence(self) -> str:
        return self.report.sentence

    @functools.cached_property
    def gallery(self) -> list[list[Clip]]:
        """Queries, each with what is nearest to it, best first."""
        pictured = functools.cache(_pictured)
        return [
            [
                replace(pictured(q.id, q.path, q.span), title=q.label or "–", value="query"),
                *(
                    replace(
                        pictured(n.id, n.path, n.span),
                        title=n.label or "–",
                        value=f"{n.similarity:.3f}",
                        mark="good" if n.label == q.label else "bad",
                    )
                    for n in q.neighbours
                ),
            ]
            for q in self.report.neighbours[: self.num_queries]
        ]


def _pictured(name: str, path: str, span: tuple[float, float | None] | None) -> Clip:
    own = shown(os.path.basename(name))
    return clip_of(path, span, name=own, side_px=_THUMBNAIL_PX) if path else Clip(own)


class _Page:
    """What the template asks for; what takes long is computed when it is asked."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.config: Sections = run.config
        self.records = run.metrics()
        self.environment: Mapping[str, Any] = run.environment
        self.name = run.path.resolve().name
        self.card = _training_card(run)
        about = self.card.get("data", {})
        self.source: object = about.get("source")
        self.videos = int(about["videos"]) if about.get("videos") is not None else None
        self.method = str(self.setting("method", "name") or self.card.get("method") or "a method")
        self.encoder = str(self.setting("encoder", "name") or "an encoder")
        self.noun = str(about.get("noun") or ("image" if self.of_part("clips", "clip_frames") == 1 else "video"))
        self.steps = int(self.records[-1]["step"]) if self.records else 0
        self.total_steps = int(self.environment.get("identity", {}).get("steps") or self.steps)
        self.data_digest = str(self.setting("data", "digest", ""))
        self.sessions: list[Mapping[str, Any]] = list(self.environment.get("sessions", []))
        self.last_session = self.sessions[-1] if self.sessions else {}
        self.version = str(self.last_session.get("packages", {}).get("unreel", ""))
        self.faults = list(run.faults())
        self.shown_faults = self.faults[:_MOST_FAULTS]

    # ------------------------------------------------------------------------------------------------- what was run

    def setting(self, section: str, name: str, default: Any = None) -> Any:
        """A value of config.yaml, or the default where the run has none."""
        value = self.config.get(section, {}).get(name)
        return default if value is None else value

    def of_part(self, part: str, name: str, default: Any = None) -> Any:
        """A setting of a part of the method; version 0.1 kept them with the method's own."""
        return self.setting(part, name, self.setting("method", name, default))

    @functools.cached_property
    def seconds(self) -> float:
        """Seconds of training, from the records."""
        total, before = 0.0, 0
        for record in self.records:
            if record.get("s_per_step") is not None:
                total += float(record["s_per_step"]) * (int(record["step"]) - before)
                before = int(record["step"])
        return total

    def typical(self, name: str) -> float | None:
        """Median of a quantity over the run, without the first record (which holds the start-up)."""
        values = [float(r[name]) for r in self.records if r.get(name) is not None]
        return float(np.median(values[1:] or values)) if values else None

    # ------------------------------------------------------------------------------------------------------- scores

    @functools.cached_property
    def evaluations(self) -> list[Evaluation]:
        """Every evaluation that the run's folder keeps and that can be read, decided losses first."""
        found = [(report, file.name) for file, report in self._reports if isinstance(report, Report)]
        each = max(2, _MOST_QUERIES // max(1, sum(bool(report.neighbours) for report, _ in found)))
        return sorted((Evaluation(*own, each) for own in found), key=lambda e: MARKS.index(e.mark))

    @property
    def answer(self) -> tuple[Mark, str]:
        """What the encoder is worth, in one sentence."""
        if not self.evaluations:
            return "open", "Nothing says yet what this encoder is worth: it was not scored on labels."
        first = self.evaluations[0]
        if len(self.evaluations) == 1:
            return first.mark, f"{first.name}: {first.sentence}"
        marks = [found.mark for found in self.evaluations]
        parts = [
            f"{words} in {marks.count(mark)}"
            for mark, words in zip(
                MARKS, ("below chance or worse than another net", "not decided", "better"), strict=True
            )
            if mark in marks
        ]
        return first.mark, f"Of {counted(len(marks), 'evaluation')}: {', '.join(parts)}."

    @property
    def score_problems(self) -> list[str]:
        """What is wrong with those that cannot."""
        return [str(found) for _, found in self._reports if isinstance(found, DataError)]

    @functools.cached_property
    def _reports(self) -> list[tuple[Path, Report | DataError]]:
        return list(kept_reports(self.run.path))

    # ------------------------------------------------------------------------------------------------------ pictures

    @functools.cached_property
    def overview(self) -> Overview | None:
        """What the encoder sees without labels, where the run's folder keeps it."""
        return Overview.read(self.run.path)

    @property
    def warnings(self) -> list[str]:
        """What a reader should know first: of the data, and of how training went."""
        return [*self.run.notes, *findings(self.records, chance_levels(self.config))]

    @functools.cached_property
    def curves(self) -> list[Drawing]:
        return curves(self.records, chance=chance_levels(self.config))

    @property
    def shown_curves(self) -> tuple[list[Drawing], list[Drawing]]:
        """What training reached, and how: learning rate and time spent waiting."""
        how = ("curve-lr", "curve-data_wait")
        return [d for d in self.curves if d.name not in how], [d for d in self.curves if d.name in how]

    @property
    def intervals(self) -> Drawing | None:
        """Temporal sampling, for methods whose pairs have an interval."""
        kind = self.of_part("clips", "interval")
        # An image has one time; elsewhere, as between snippets, an interval is a number of frames.
        if not isinstance(kind, str) or self.noun == "image":
            return None
        if self.of_part("clips", "rho", 2) != 2:  # no pair, or the distribution of none of its pairs
            return None
        try:
            distribution = IntervalDistribution(
                cast(IntervalKind, kind),
                self.of_part("clips", "power", 1.0),
                frames=self.of_part("clips", "fixed_frames", 0),
                scale=self.of_part("clips", "scale", self.setting("method", "interval_scale", 0.25)),
            )
        except UnreelError:
            return None
        return interval_figure(distribution)

    @property
    def views(self) -> str:
        """views.png as a data URI; empty where the run has none."""
        file = self.run.path / VIEWS_FILE
        return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}" if file.is_file() else ""

    # --------------------------------------------------------------------------------------------------- the rest

    @functools.cached_property
    def settings(self) -> list[Setting]:
        origins = read_origins(self.run.path / "config.yaml")
        return [
            Setting(part, name, "—" if value is None else str(value), origins.get(part, {}).get(name, ""))
            for part, values in self.config.items()
            for name, value in values.items()
        ]

    @property
    def chosen(self) -> list[Setting]:
        """Settings that somebody or a recipe chose."""
        return [s for s in self.settings if s.origin not in ("", "default") and s.name != "digest"]

    @property
    def commands(self) -> list[tuple[str, str]]:
        path = shlex.quote(os.fspath(self.run.path))
        source = self.source
        if source is None:
            header = (self.run.path / "config.yaml").read_text(encoding="utf-8")[:2000]
            match = re.search(r"unreel pretrain (.+?) --recipe", header)
            source = match.group(1) if match else None
        data = shlex.quote(str(source)) if source else "DATA"
        again = f"unreel pretrain {data} --recipe {path}/config.yaml --out NEW-RUN"
        return [
            ("Run it again, with the same settings and seed", again),
            ("Score the encoder", f"unreel evaluate {path} DATA --protocol linear knn retrieval"),
            ("Look at files without labels, and write this page again", f"unreel report {path} --data {data}"),
        ]

    @property
    def written(self) -> str:
        """When the last session ended, or began."""
        return date(self.last_session.get("ended") or self.last_session.get("started"))


def _training_card(run: Run) -> Mapping[str, Any]:
    """What the encoder's card says of its training; empty before the run is complete."""
    try:
        found = read_card(run.encoder_path) if run.completed else {}
    except UnreelError:
        return {}
    training = found.get("pretraining", {})
    return training if isinstance(training, Mapping) else {}
