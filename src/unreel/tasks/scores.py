"""What an evaluation found: scores that carry their n, their chance level, their controls and their interval."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from unreel.core.checks import from_plain
from unreel.core.digests import mapping_digest
from unreel.core.errors import DataError
from unreel.core.files import check_file, check_folder, write_whole
from unreel.core.text import table
from unreel.core.words import counted
from unreel.stats.intervals import Interval, PairedDifference
from unreel.tasks.answer import sentence
from unreel.tasks.baselines import BASELINES, USUAL_BASELINES

_FORMAT = 1
SCORES_FOLDER = "scores"
RECORDS_SUFFIX = ".records"
# From fewer groups a percentile interval is known to be too narrow (Cameron, Gelbach and Miller 2008 use 20 to 30 as
# "few clusters").
FEW_GROUPS = 20
# Rounding must not decide on which side of chance a bound falls that touches it.
_TIE = 1e-12

Side: TypeAlias = Literal["above", "below", "undecided"]
"""Where a whole interval lies; "undecided" where it holds or touches what it is compared with."""
Mark: TypeAlias = Literal["good", "bad", "open"]

_BELOW_CHANCE = (
    "something answers the wrong way round. This is usually a label that follows the split or the group, swapped "
    "labels, or groups so few and small that leaving one out leaves too little of its own class to learn from"
)


def _side(low: float, high: float, reference: float) -> Side:
    return "above" if low > reference + _TIE else "below" if high < reference - _TIE else "undecided"


@dataclass(frozen=True)
class Score:
    """One number and what is needed to judge it.

    Attributes:
        encoder: "encoder" (the one asked about), a control (``tasks.baselines``), or an external one's name.
        protocol, metric: how it was reached; ``higher_is_better`` its direction (None: it has none).
        value: the score on ``n`` test samples in ``n_groups`` groups, after fitting on ``n_train``.
        chance: the score of looking at nothing; ``chance_rule`` says how.
        interval: at ``level`` over groups; ``None`` with fewer than two groups. ``interval_rule`` says how.
        references: encoder name → its value, for the controls of this encoder.
        differences: encoder name → paired difference of this encoder minus that one.
        settings: what the protocol chose.
        primary: whether it is the metric quoted first for its protocol.
    """

    encoder: str
    protocol: str
    metric: str
    value: float
    n: int
    n_groups: int
    n_train: int
    chance: float
    interval: Interval | None
    interval_rule: str = ""
    chance_rule: str = ""
    higher_is_better: bool | None = True
    primary: bool = False
    references: Mapping[str, float] = field(default_factory=dict)
    differences: Mapping[str, PairedDifference] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def versus_chance(self) -> Side | None:
        """Where the whole interval lies; ``None`` without an interval. Which side is good is the metric's direction."""
        return None if self.interval is None else _side(self.interval.low, self.interval.high, self.chance)

    @property
    def above_chance(self) -> bool | None:
        """Whether the whole interval is on the good side of chance; ``None`` without an interval or a good side."""
        side = self.versus_chance
        return None if side is None or self.higher_is_better is None else self._is_good(side) is True

    @property
    def mark(self) -> Mark:
        """What the score decides: "bad" below chance or a control, "good" above chance and the same net untrained."""
        chance = self._is_good(self.versus_chance)
        known = [name for name in BASELINES if name in self.differences]
        controls = {name: self._is_good(self.versus(name)) for name in known}
        if chance is False or False in controls.values():
            return "bad"
        return "good" if chance and all(controls.get(name, True) for name in USUAL_BASELINES) else "open"

    @property
    def warns(self) -> bool:
        """Whether this is a score quoted first, of the encoder asked about, that is below chance or a control."""
        return self.primary and self.encoder == "encoder" and self.mark == "bad"

    def versus(self, control: str) -> Side:
        """Where the whole interval of the paired difference to a control lies, seen from 0."""
        d = self.differences[control]
        return _side(d.low, d.high, 0.0)

    def word(self, control: str) -> str:
        """What the difference to a control decides: "better", "worse", "undecided", or "higher", "lower"."""
        side = self.versus(control)
        if side == "undecided":
            return side
        return {True: "better", False: "worse", None: "higher" if side == "above" else "lower"}[self._is_good(side)]

    def _is_good(self, side: Side | None) -> bool | None:
        """Whether a side is the better one; ``None`` where nothing is decided or the metric has no direction."""
        if side in (None, "undecided") or self.higher_is_better is None:
            return None
        return (side == "above") == self.higher_is_better

    @property
    def verdict(self) -> str:
        """One sentence on what the score decides, and what n is too small to decide."""
        samples = f"n = {self.n}" + (f" in {counted(self.n_groups, 'group')}" if self.n_groups != self.n else "")
        head = f"{self.protocol} {self.metric} {self.value:.3f} ({samples})"
        if self.interval is None:
            return f"{head}: too few groups for an interval; this decides nothing"
        losses_first = sorted(self.differences, key=lambda name: self.word(name) != "worse")
        parts = [self._chance_verdict(), *(self._difference_verdict(name) for name in losses_first)]
        if self.n_groups < FEW_GROUPS:
            parts.append(
                f"bootstrap intervals from {counted(self.n_groups, 'group')} are too narrow, read them with care"
            )
        return f"{head}: {'; '.join(parts)}"

    def _chance_verdict(self) -> str:
        side = self.versus_chance
        good = self._is_good(side)
        if side == "undecided":
            known = not math.isnan(self.chance)
            return f"not distinguishable from chance ({self.chance:.3f})" if known else "its chance is not known"
        if self.higher_is_better is False:
            what = f"{'better' if good else 'WORSE'} than chance ({self.chance:.3f}; lower is better)"
        else:
            what = "above chance" if side == "above" else f"BELOW chance ({self.chance:.3f})"
        return f"{what}: {_BELOW_CHANCE}" if good is False else what

    def _difference_verdict(self, control: str) -> str:
        d, side = self.differences[control], self.versus(control)
        half = (d.high - d.low) / 2
        if side == "undecided" and half == 0:
            return f"no different from {control} in any resample"
        if side == "undecided":
            return (
                f"difference to {control} undecided ({d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]): "
                f"n is too small for differences below about {half:.3f}"
            )
        word = self.word(control)
        word = "WORSE" if word == "worse" else word
        return f"{word} than {control} by {abs(d.difference):.3f}"


@dataclass(frozen=True)
class Neighbour:
    """One source in a retrieval gallery: ``similarity`` to the query, ``path`` empty where it is no file."""

    id: str
    path: str
    label: str
    similarity: float
    span: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class QueryNeighbours:
    """A test source and the training sources nearest to it, best first."""

    id: str
    path: str
    label: str
    neighbours: tuple[Neighbour, ...]
    span: tuple[float, float | None] | None = None


@dataclass(frozen=True)
class Confusion:
    """Counts of (label, prediction) of the encoder asked about, rows being labels, by protocol."""

    protocol: str
    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Report:
    """The result of ``evaluate``.

    Attributes:
        scores: every (encoder, protocol, metric).
        task: label, classes, sizes of the parts.
        encoder: architecture, digest, number of features, and the clips it was given.
        notes: what a reader must know: rows left out, faults, what n cannot decide.
        faults: unreadable sources, path and cause; they are in no n.
        neighbours: some test sources with their nearest training sources (with the retrieval protocol).
        confusions: one per protocol that classifies.
        about: what tells this evaluation from others of the same encoder: data, label, split, task, protocols, profile.
        records: protocol → the encoder's outcomes (``tasks.records``), which a run's folder keeps beside the report.
        kept: when a run's folder got it; empty where none did.
        profile, seed, level: those of the evaluation.
    """

    scores: tuple[Score, ...]
    task: Mapping[str, Any]
    encoder: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    faults: tuple[Mapping[str, str], ...] = ()
    neighbours: tuple[QueryNeighbours, ...] = ()
    confusions: tuple[Confusion, ...] = ()
    profile: str = "standard"
    seed: int = 0
    level: float = 0.95
    about: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, str] = field(default_factory=dict, repr=False)
    kept: str = ""

    def score(self, protocol: str | None = None, metric: str | None = None, encoder: str = "encoder") -> Score:
        """One score; the first protocol and its primary metric unless named. Raises DataError when there is none."""
        for s in self.scores:
            if s.encoder != encoder or (protocol is not None and s.protocol != protocol):
                continue
            if s.metric == metric or (metric is None and s.primary):
                return s
        have = ", ".join(f"{s.encoder}/{s.protocol}/{s.metric}" for s in self.scores)
        raise DataError(f"no score for {encoder}/{protocol or '*'}/{metric or 'primary'}; there are {have}")

    @property
    def verdicts(self) -> tuple[str, ...]:
        """One sentence per protocol on what its primary score decides, and what n is too small to decide."""
        return tuple(s.verdict for s in self.scores if s.encoder == "encoder" and s.primary)

    @property
    def sentence(self) -> str:
        """The answer first: below chance or beaten, by what and by how much; not decided; or better than what."""
        return sentence(self.scores)

    def table(self) -> str:
        """The scores of the encoder asked about as aligned text, its controls beside them."""
        mine = [s for s in self.scores if s.encoder == "encoder"]
        others = list(dict.fromkeys(name for s in mine for name in s.references))
        header = ["protocol", "metric", "n", "score", f"{self.level:.0%} interval", "chance", *others]
        untrained = [name for name in USUAL_BASELINES if any(name in s.differences for s in mine)]
        for name in untrained:
            header += [f"minus {name}", "p"]
        rows = []
        for s in mine:
            n = str(s.n) if s.n_groups == s.n else f"{s.n} in {counted(s.n_groups, 'group')}"
            row = [s.protocol, s.metric, n, f"{s.value:.3f}", _range(s.interval), f"{s.chance:.3f}"]
            row += [f"{s.references[o]:.3f}" if o in s.references else "" for o in others]
            for name in untrained:
                d = s.differences.get(name)
                row += [f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" if d else "", _p(d.p_value) if d else ""]
            rows.append(row)
        return table(header, rows)

    def text(self) -> str:
        """The answer in a sentence, the table, what it decides, and the notes."""
        parts = [self.sentence, self.table(), *self.verdicts, *(f"note: {note}" for note in self.notes)]
        if self.faults:
            shown = ", ".join(f["path"] for f in self.faults[:5])
            them = "it" if len(self.faults) == 1 else "them"
            parts.append(f"{counted(len(self.faults), 'source')} could not be read; no n includes {them}: {shown}")
        return "\n".join(part for part in parts if part)

    __str__ = text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` is the inverse."""
        values = plain(asdict(self))
        del values["kept"], values["records"]
        for before, after in zip(self.scores, values["scores"], strict=True):
            after["interval"] = None if before.interval is None else before.interval._asdict()
            after["versus_chance"] = before.versus_chance
        return {"format": _FORMAT, "sentence": self.sentence, **values, "verdicts": list(self.verdicts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """A report again. Raises DataError for another format or missing parts."""
        if values.get("format") != _FORMAT:
            raise DataError(f"not a report this version reads: format {values.get('format')!r}, expected {_FORMAT}")
        try:
            return from_plain(cls, values)
        except ValueError as error:
            raise DataError(f"not a complete report: {error}") from None

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write ``scores.json`` (or the name given), all or nothing.

        A folder takes ``scores.json`` inside it, a run's folder a file for each data set, label and split (``keep``).
        """
        if _is_run(path):
            return self.keep(path)
        return write_whole(_file(path), json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    def keep(self, run: str | os.PathLike[str]) -> Path:
        """Write the report into a run's folder ``scores``, in the place of an earlier one about the same."""
        data = Path(self.about.get("data", ""))
        names = [data.stem or data.name, self.about.get("label", "")]
        words = "-".join(re.sub(r"[^\w.-]+", "_", name)[:40] for name in names if name)
        target = Path(run) / SCORES_FOLDER / f"{words}-{mapping_digest(self.about)[:8]}.json"
        values = {**self.to_dict(), "kept": time.strftime("%Y-%m-%d %H:%M:%S")}
        write_whole(target.with_suffix(RECORDS_SUFFIX), "".join(self.records.values()))
        return write_whole(target, json.dumps(values, indent=1, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Report:
        """Read what ``to_json`` wrote. Raises DataError when it is not that."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: not a readable report ({error})") from None


def _is_run(path: str | os.PathLike[str]) -> bool:
    return Path(path, "config.yaml").is_file()


def _file(path: str | os.PathLike[str]) -> Path:
    return Path(path, "scores.json") if os.path.isdir(path) else Path(path)


def check_report(path: str | os.PathLike[str]) -> None:
    """Raise WriteError where a report cannot be written to ``path``, as ``Report.to_json`` takes it."""
    if _is_run(path):
        check_folder(Path(path, SCORES_FOLDER))
    else:
        check_file(_file(path))


def kept_reports(run: str | os.PathLike[str]) -> Iterator[tuple[Path, Report | DataError]]:
    """The evaluations in a run's folder by file, each as it is or as what is wrong with it.

    Those of ``Report.keep``, by their names; then ``scores.json``, which versions before them wrote.
    """
    folder = Path(run)
    for file in [*sorted((folder / SCORES_FOLDER).glob("*.json")), folder / "scores.json"]:
        if file.is_file():
            try:
                yield file, Report.from_json(file)
            except DataError as error:
                yield file, error


def _range(interval: Interval | None) -> str:
    return "—" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def plain(value: Any) -> Any:
    """Numbers and names for JSON, whatever arrays and tuples they came in."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value
