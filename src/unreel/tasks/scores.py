"""What an evaluation found: scores that carry their n, their chance level, their controls and their interval."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unreel.core.errors import DataError
from unreel.core.files import write_whole
from unreel.stats.intervals import Interval, PairedDifference

_FORMAT = 1
# From fewer groups a percentile interval is known to be too narrow (Cameron, Gelbach and Miller 2008 use 20 to 30 as
# "few clusters").
FEW_GROUPS = 20


@dataclass(frozen=True)
class Score:
    """One number and what is needed to judge it.

    Attributes:
        encoder: "encoder" (the one asked about), "random-init", "frame-statistics", or an external one's name.
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
    def random_init(self) -> float | None:
        """The same architecture's score with random weights."""
        return self.references.get("random-init")

    @property
    def difference(self) -> PairedDifference | None:
        """Paired difference to random-init."""
        return self.differences.get("random-init")

    @property
    def above_chance(self) -> bool | None:
        """Whether the whole interval is on the good side of chance; ``None`` without an interval or a good side."""
        if self.interval is None or self.higher_is_better is None:
            return None
        return self.interval.low > self.chance if self.higher_is_better else self.interval.high < self.chance


@dataclass(frozen=True)
class Neighbour:
    """One source in a retrieval gallery: ``similarity`` to the query, ``path`` empty where it is no file."""

    id: str
    path: str
    label: str
    similarity: float


@dataclass(frozen=True)
class QueryNeighbours:
    """A test source and the training sources nearest to it, best first."""

    id: str
    path: str
    label: str
    neighbours: tuple[Neighbour, ...]


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
        profile, seed, level: of the evaluation.
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
        return tuple(_verdict(s) for s in self.scores if s.encoder == "encoder" and s.primary)

    def table(self) -> str:
        """The scores of the encoder asked about as aligned text, its controls beside them."""
        mine = [s for s in self.scores if s.encoder == "encoder"]
        others = list(dict.fromkeys(name for s in mine for name in s.references))
        header = ["protocol", "metric", "n", "score", f"{self.level:.0%} interval", "chance", *others]
        if any(s.difference for s in mine):
            header += ["minus random-init", "p"]
        rows = []
        for s in mine:
            n = str(s.n) if s.n_groups == s.n else f"{s.n} in {s.n_groups} groups"
            row = [s.protocol, s.metric, n, f"{s.value:.3f}", _range(s.interval), f"{s.chance:.3f}"]
            row += [f"{s.references[o]:.3f}" if o in s.references else "" for o in others]
            if len(header) > len(row):
                d = s.difference
                row += [f"{d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" if d else "", _p(d.p_value) if d else ""]
            rows.append(row)
        widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in [header, *rows]
        ]
        return "\n".join(lines)

    def text(self) -> str:
        """The table, what it decides, and the notes."""
        parts = [self.table(), *self.verdicts, *(f"note: {note}" for note in self.notes)]
        if self.faults:
            shown = ", ".join(f["path"] for f in self.faults[:5])
            parts.append(f"{len(self.faults)} sources could not be read and are in no n: {shown}")
        return "\n".join(parts)

    __str__ = text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``from_dict`` is the inverse."""
        plain = _plain(asdict(self))
        for before, after in zip(self.scores, plain["scores"], strict=True):
            after["interval"] = None if before.interval is None else before.interval._asdict()
        return {"format": _FORMAT, **plain, "verdicts": list(self.verdicts)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """A report again. Raises DataError for another format or missing parts."""
        if values.get("format") != _FORMAT:
            raise DataError(f"not a report this version reads: format {values.get('format')!r}, expected {_FORMAT}")
        try:
            return cls(
                scores=tuple(_score(v) for v in values["scores"]),
                task=values["task"],
                encoder=values["encoder"],
                notes=tuple(values["notes"]),
                faults=tuple(values["faults"]),
                neighbours=tuple(
                    QueryNeighbours(**{**q, "neighbours": tuple(Neighbour(**h) for h in q["neighbours"])})
                    for q in values["neighbours"]
                ),
                confusions=tuple(
                    Confusion(c["protocol"], tuple(c["classes"]), tuple(tuple(r) for r in c["counts"]))
                    for c in values["confusions"]
                ),
                profile=values["profile"],
                seed=values["seed"],
                level=values["level"],
            )
        except (KeyError, TypeError) as error:
            raise DataError(f"not a complete report: {error}") from None

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write ``scores.json`` (or the name given), all or nothing; a folder takes ``scores.json`` inside it."""
        target = Path(path)
        if target.is_dir():
            target = target / "scores.json"
        return write_whole(target, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")

    @classmethod
    def from_json(cls, path: str | os.PathLike[str]) -> Report:
        """Read what ``to_json`` wrote. Raises DataError when it is not that."""
        try:
            return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: not a readable report ({error})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if hasattr(value, "item") else value


def _score(values: Mapping[str, Any]) -> Score:
    interval = values["interval"]
    return Score(
        **{
            **values,
            "interval": None if interval is None else Interval(**interval),
            "differences": {k: PairedDifference(**v) for k, v in values["differences"].items()},
        }
    )


def _range(interval: Interval | None) -> str:
    return "—" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _verdict(s: Score) -> str:
    samples = f"n = {s.n}" + (f" in {s.n_groups} groups" if s.n_groups != s.n else "")
    head = f"{s.protocol} {s.metric} {s.value:.3f} ({samples})"
    if s.interval is None:
        return f"{head}: too few groups for an interval; this decides nothing"
    parts = ["above chance" if s.above_chance else f"not distinguishable from chance ({s.chance:.3f})"]
    d = s.difference
    if d is not None:
        half = (d.high - d.low) / 2
        if not d.decided and half == 0:
            parts.append("no different from random-init in any resample")
        elif not d.decided:
            parts.append(
                f"difference to random-init undecided ({d.difference:+.3f} [{d.low:+.3f}, {d.high:+.3f}]): "
                f"n is too small for differences below about {half:.3f}"
            )
        else:
            better = (d.difference > 0) == s.higher_is_better
            parts.append(f"{'better' if better else 'WORSE'} than random-init by {abs(d.difference):.3f}")
    if s.n_groups < FEW_GROUPS:
        parts.append(f"bootstrap intervals from {s.n_groups} groups are too narrow, read them with care")
    return f"{head}: {'; '.join(parts)}"


def merge_notes(*groups: Sequence[str]) -> tuple[str, ...]:
    """All notes, each once, in order."""
    return tuple(dict.fromkeys(note for group in groups for note in group))
