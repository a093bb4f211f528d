"""Several runs side by side: scores on the same data, paired differences, settings that differ, losses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unreel.core.errors import DataError, UsageError
from unreel.core.files import check_file
from unreel.report.figures import Drawing, losses_figure
from unreel.report.html import MARKS, Evaluation
from unreel.report.pages import write_page
from unreel.stats.intervals import PairedDifference, paired_bootstrap
from unreel.tasks.answer import bounds, undecided
from unreel.tasks.records import Record
from unreel.tasks.scores import RECORDS_SUFFIX, Mark, Report, Score, kept_reports
from unreel.tasks.task import Outcomes
from unreel.train.run import Run, open_run

# What two evaluations must have in common to be set beside each other.
_SAME = ("task", "data", "gallery", "label", "group", "split")


@dataclass(frozen=True)
class Row:
    """A run's score in a table; ``difference``: to the first run's, None where it cannot be paired."""

    run: str
    score: Score
    difference: PairedDifference | None
    first: str

    @property
    def word(self) -> str:
        """Whether the run is better than the first one."""
        d = self.difference
        if d is None or not d.decided or self.score.higher_is_better is None:
            return "not decided"
        return "better" if (d.difference > 0) == self.score.higher_is_better else "worse"

    @property
    def mark(self) -> Mark:
        return {"better": "good", "worse": "bad", "not decided": "open"}[self.word]  # type: ignore[return-value]

    @property
    def sentence(self) -> str:
        """The difference to the first run in words; empty where there is none."""
        if self.difference is None:
            return ""
        how = f"{self.score.protocol} {self.score.metric}: {self.run} is"
        if self.word == "not decided":
            return f"{how} not decided against {self.first} {undecided(self.difference)}"
        return f"{how} {self.word} than {self.first} by {bounds(self.difference)}"


@dataclass(frozen=True)
class Table:
    """What several runs scored on the same parts of one data set."""

    name: str
    when: str
    level: float
    rows: tuple[Row, ...]


def write_comparison(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write a page that sets runs side by side; every difference is to the first run.

    Differences are paired over the test samples, from the outcomes that evaluations keep beside their scores.

    Args:
        runs: two or more folders. out: the page, which ends in .html.
    Raises: UsageError for a single run, or another suffix; DataError for a folder that holds no run.
    """
    if len(runs) < 2:
        raise UsageError("a comparison takes two runs or more")
    if Path(out).suffix.lower() != ".html":
        raise UsageError(f"{os.fspath(out)}: a comparison is written as .html")
    check_file(out)
    opened = [open_run(run) for run in runs]
    known = dict(zip(_names(opened), opened, strict=True))
    tables = list(_tables(known))
    said = [(row.mark, f"{table.name}: {row.sentence}") for table in tables for row in table.rows if row.sentence]
    return write_page(
        out,
        "compare.html.jinja",
        title=" and ".join(known) if len(known) == 2 else f"{len(known)} runs",
        runs=known,
        tables=tables,
        verdicts=sorted(said, key=lambda verdict: MARKS.index(verdict[0])),
        settings=_settings(known),
        losses=_losses(known),
    )


def _names(runs: Sequence[Run]) -> list[str]:
    """The folders' own names, with as many of the folders above as tell them apart."""
    paths = [run.path.resolve() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len({*names}) == len(names):
            return names
    raise UsageError("the same run is named twice")


def _tables(runs: dict[str, Run]) -> Iterator[Table]:
    found: dict[tuple[str, ...], list[tuple[str, Path, Report]]] = {}
    for name, run in runs.items():
        for file, report in kept_reports(run.path):
            if isinstance(report, Report) and report.about:
                same = tuple(str(report.about.get(key, "")) for key in _SAME)
                found.setdefault(same, []).append((name, file, report))
    for same, members in sorted(found.items()):
        rows: list[Row] = []
        firsts: dict[tuple[str, str], tuple[str, Path]] = {}
        for name, file, report in members:
            for score in report.scores:
                if score.encoder == "encoder" and score.primary:
                    first, place = firsts.setdefault((score.protocol, score.metric), (name, file))
                    paired = None if place == file else _paired(file, place, score, report.level)
                    rows.append(Row(name, score, paired, first))
        order = [protocol for protocol, _ in firsts]
        rows.sort(key=lambda row: order.index(row.score.protocol))
        about = Evaluation(members[0][2], "")
        split = same[_SAME.index("split")]
        yield Table(about.name, f"split: {split}" if split else "", members[0][2].level, tuple(rows))


def _paired(mine: Path, theirs: Path, score: Score, level: float) -> PairedDifference | None:
    """The difference of two evaluations' outcomes, None unless they are of the same samples by the same metric."""
    a, b = (_outcomes(file, score.protocol) for file in (mine, theirs))
    if a is None or b is None or score.metric not in a.values or score.metric not in b.values:
        return None
    if a.truth.ids is None or b.truth.ids is None or sorted(a.truth.ids) != sorted(b.truth.ids):
        return None
    one, other = np.argsort(a.truth.ids, kind="stable"), np.argsort(b.truth.ids, kind="stable")
    groups = None if a.truth.groups is None else a.truth.groups[one]
    return paired_bootstrap(a.values[score.metric][one], b.values[score.metric][other], groups=groups, level=level)


def _outcomes(file: Path, protocol: str) -> Outcomes | None:
    """A protocol's outcomes beside a report, None where they are not kept or cannot be read."""
    kept = file.with_suffix(RECORDS_SUFFIX)
    if not kept.is_file():
        return None
    try:
        records = [Record.from_json(line, str(kept)) for line in kept.read_text(encoding="utf-8").splitlines()]
    except DataError:
        return None
    return next((r.outcomes for r in records if r.outcomes.protocol == protocol), None)


def _settings(runs: dict[str, Run]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs, with the value of each; "—" where a run has none."""
    plain = [
        {f"{part}.{k}": str(v) for part, own in run.config.items() for k, v in own.items()} for run in runs.values()
    ]
    names = dict.fromkeys(name for own in plain for name in own)
    rows = [(name, [own.get(name, "—") for own in plain]) for name in names]
    return [(name, values) for name, values in rows if len({*values}) > 1]


def _losses(runs: dict[str, Run]) -> Drawing | None:
    try:
        return losses_figure({name: run.metrics() for name, run in runs.items()})
    except UsageError:
        return None
