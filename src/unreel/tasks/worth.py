"""Is it worth it? What training on one's own videos is worth, beside the same net as it was and what needs none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unreel.core.text import table
from unreel.stats.intervals import Interval, PairedDifference, paired_bootstrap
from unreel.tasks.answer import bounds, undecided
from unreel.tasks.folds import pooled
from unreel.tasks.records import Record, Resampling
from unreel.tasks.scores import plain
from unreel.tasks.task import Metric, Outcomes, Task

FROZEN, TRAINED, SCRATCH, FIRST, STATISTICS = "frozen", "trained", "scratch", "first-weights", "frame-statistics"
PLAIN = "frozen-plain"
"""The frozen net on plain pixels, where the recipe takes something away from its input (what stands still)."""
_FORMAT = 1


@dataclass(frozen=True)
class Row:
    """What one way to describe the videos reaches.

    Attributes:
        name: "frozen", "frozen-plain", "trained", "scratch", "first-weights" or "frame-statistics". what: in words.
        value: the metric, all samples and seeds pooled; ``by_seed`` of each seed.
        chance: of looking at nothing. interval: over groups; None with fewer than two.
        differences: other row → this one minus that one, paired.
        minutes, steps: of training, all seeds together; 0 where nothing is trained.
    """

    name: str
    what: str
    value: float
    by_seed: tuple[float, ...]
    chance: float
    interval: Interval | None
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)
    minutes: float = 0.0
    steps: int = 0

    @property
    def above_chance(self) -> bool | None:
        """Whether the whole interval is above chance, or below it; None where neither."""
        if self.interval is None or self.interval.low <= self.chance <= self.interval.high:
            return None
        return self.interval.low > self.chance


@dataclass(frozen=True)
class WorthIt:
    """The answer of ``worth_it``, with everything it rests on.

    Attributes:
        sentence: better, worse, or not decided and what would decide it.
        rows: by what they are, the trained net after the frozen one; ``reference`` is what they are compared with.
        metric, protocol, level: how it was measured. n, n_groups, unit: on what; ``unit`` is what one group is called.
        label, group, folds, seeds, held_out, encoder, recipe: what was asked.
        minutes: of everything, this time; what an earlier call had finished is not in it.
        notes: what a reader must know. files: the JSON and the page.
    """

    sentence: str
    rows: tuple[Row, ...]
    reference: str
    metric: str
    protocol: str
    level: float
    n: int
    n_groups: int
    unit: str
    label: str
    group: str
    folds: int
    seeds: tuple[int, ...]
    held_out: bool
    encoder: str
    recipe: str
    minutes: float = 0.0
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)

    def text(self) -> str:
        """The sentence, the table, and the notes."""
        header = ("", self.metric.replace("_", " "), f"{self.level:.0%} interval", f"minus {self.reference}", "minutes")
        lines = []
        for row in self.rows:
            found = row.differences.get(self.reference)
            shown = "" if found is None else f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
            interval = "—" if row.interval is None else f"[{row.interval.low:.3f}, {row.interval.high:.3f}]"
            minutes = f"{row.minutes:.1f}" if row.steps else ""
            lines.append((row.name, f"{row.value:.3f}", interval, shown, minutes))
        lines.append(("chance", f"{self.rows[0].chance:.3f}", "", "", ""))
        told = [*(f"{row.name}: {row.what}" for row in self.rows), *(f"note: {note}" for note in self.notes)]
        return "\n".join([self.sentence, table(header, lines), *told, *(f"wrote {file}" for file in self.files)])

    __str__ = text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values: dict[str, Any] = plain(asdict(self))
        for before, after in zip(self.rows, values["rows"], strict=True):
            after["interval"] = None if before.interval is None else before.interval._asdict()
        return {"format": _FORMAT, **values}


def compare(
    task: Task, records: Mapping[str, Sequence[Record]], resampling: Resampling, *, seed: int = 0
) -> tuple[list[Row], str]:
    """Rows of records, and the name of their metric: balanced accuracy of classes, else the protocol's own.

    Args:
        task: as which the records are scored. records: row → one record for each seed, of the same test samples.
        resampling: how intervals are made, over groups: a group is drawn with all its samples and all seeds.
    """
    outcomes = {name: pooled([record.outcomes for record in own], unit="seed") for name, own in records.items()}
    first = next(iter(outcomes.values()))
    metrics = {metric.name: metric for metric in task.metrics(first)}
    metric = metrics.get("balanced_accuracy") or next(iter(metrics.values()))
    groups = _groups(first)
    measured = {name: metric.measure(found) for name, found in outcomes.items()}
    rows = []
    for name, mine in measured.items():
        interval, _ = resampling.interval(mine.source, groups, seed=seed)
        others = [other for other in measured if other != name and interval is not None]
        options = {"groups": groups, "seed": seed, **vars(resampling)}
        differences = {other: paired_bootstrap(mine.source, measured[other].source, **options) for other in others}
        by_seed = tuple(_value(metric, record) for record in records[name])
        rows.append(Row(name, "", mine.value, by_seed, mine.chance, interval, differences))
    return rows, metric.name


def _groups(outcomes: Outcomes) -> Any:
    groups = outcomes.truth.groups
    return np.arange(outcomes.n).astype(str) if groups is None else groups


def _value(metric: Metric, record: Record) -> float:
    return metric.measure(record.outcomes).value


def worth_sentence(rows: Sequence[Row], *, metric: str, encoder: str, videos: str, unit: str) -> str:
    """Whether training was worth it, in one sentence; whatever beats the trained net is named before any praise.

    Args:
        rows: with "trained", and "frozen" where there is the same net as it was.
        metric, encoder: their names. videos: how many of what ("362 videos"). unit: what one group is called.
    """
    by_name = {row.name: row for row in rows}
    trained, what = by_name[TRAINED], metric.replace("_", " ")
    # What one could take instead is the better of both, on the recipe's input or on plain pixels.
    reference = max((n for n in (FROZEN, PLAIN) if n in by_name), key=lambda n: by_name[n].value, default=FIRST)
    before = {FROZEN: "the same net frozen", PLAIN: "the same net frozen on plain pixels"}.get(
        reference, "the same net untrained"
    )
    net = encoder if reference == FIRST else f"{encoder} further"
    scores = f"{what} {trained.value:.3f} against {by_name[reference].value:.3f}"
    if trained.interval is None:
        return f"Not decided: there are too few {unit}s for an interval ({scores})."
    beaten = [name for name, found in trained.differences.items() if found.high < 0]
    at_chance = trained.above_chance is not True
    if trained.above_chance is False:
        return (
            f"No: trained on your {videos}, {encoder} is below chance ({what} {trained.value:.3f} where chance is "
            f"{trained.chance:.3f}): look at labels and groups before anything else."
        )
    found = trained.differences[reference]
    if reference in beaten:
        return (
            f"No: training {net} on your {videos} is worse than {before} by {bounds(found)} ({scores}); "
            f"{_use(by_name, reference)}."
        )
    if beaten:
        named = " and by ".join(f"{name} by {bounds(trained.differences[name])}" for name in beaten)
        return f"No: {encoder} trained on your {videos} is beaten by {named} ({scores}); {_use(by_name, beaten[0])}."
    if at_chance:
        shown = f"{scores}, chance {trained.chance:.3f}"
        return f"Not decided: trained on your {videos}, {encoder} is no different from chance ({shown})."
    if found.low > 0:
        cost = f"{trained.minutes:.1f} minutes of training"
        return f"Yes: training {net} on your {videos} is better than {before} by {bounds(found)} ({scores}; {cost})."
    return (
        f"Not decided: training {net} on your {videos} against {before} is {undecided(found, unit)} ({scores}); "
        f"until then {_use(by_name, reference)}."
    )


def _use(rows: Mapping[str, Row], name: str) -> str:
    """What to take instead of the trained net: what is best of those that need no training, or that beat it."""
    best = max((row for row in rows.values() if not row.steps or row.name == name), key=lambda row: row.value)
    return {
        FROZEN: "take the net as it is, which costs no training",
        PLAIN: "take the net as it is, on plain pixels, which costs no training",
        SCRATCH: "take the small net trained from scratch",
        FIRST: "look for weights that were trained on much data before",
        STATISTICS: "plain statistics of the pixels do as well, and need no net",
    }[best.name]
