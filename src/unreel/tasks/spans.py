"""From windows to spans: what overlapping windows say together, and files that players and annotators open."""

from __future__ import annotations

import csv
import io
import json
import mimetypes
import os
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeAlias
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.core.files import write_whole

Window: TypeAlias = tuple[str, float | None, float | None]
"""Path, start and end in seconds."""


class Span(NamedTuple):
    """Seconds of a file that have one label, and its mean probability in them (NaN where there is none)."""

    path: str
    start_s: float
    end_s: float
    label: str
    probability: float


def merge_spans(
    windows: Sequence[Window], classes: Sequence[str], probabilities: NDArray[np.floating]
) -> tuple[Span, ...]:
    """What windows say together, file by file: neighbours of one label are one span.

    At any time, the probabilities of all windows that hold it are averaged, and the likeliest class is the label. The
    probability of a span is its label's mean over the span.

    Args:
        windows: in any order; those whose seconds are not known are left out.
        classes: C names. probabilities: (windows, C).
    """
    spans: list[Span] = []
    for path in dict.fromkeys(path for path, _, _ in windows):
        rows = [i for i, (own, start, end) in enumerate(windows) if own == path and None not in (start, end)]
        times = np.array([windows[i][1:] for i in rows], dtype=np.float64).reshape(-1, 2)
        edges, places = np.unique(times, return_inverse=True)
        sums, counts = np.zeros((max(len(edges) - 1, 0), len(classes))), np.zeros(max(len(edges) - 1, 0))
        for i, (first, last) in zip(rows, places.reshape(-1, 2).tolist(), strict=True):
            sums[first:last] += probabilities[i]
            counts[first:last] += 1
        for cell in np.flatnonzero(counts):
            mean = sums[cell] / counts[cell]
            best = int(mean.argmax())
            start, end = edges[cell : cell + 2].tolist()
            spans.append(Span(path, start, end, classes[best], float(mean[best])))
    return _joined(spans)


def _joined(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Spans in order, neighbours of one label as one."""
    found: list[Span] = []
    for span in spans:
        last = found[-1] if found else None
        if last is None or (last.path, last.label, last.end_s) != (span.path, span.label, span.start_s):
            found.append(span)
            continue
        long, more = last.end_s - last.start_s, span.end_s - span.start_s
        mean = (long * last.probability + more * span.probability) / (long + more)
        found[-1] = last._replace(end_s=span.end_s, probability=mean)
    return tuple(found)


def write_spans(spans: Sequence[Span], path: str | os.PathLike[str], *, name: str = "label") -> list[Path]:
    """Write spans by the file's suffix, all or nothing; returns the files.

    ``.csv`` is a table and ``.json`` a list of all files' spans. ``.vtt`` (WebVTT, for players) and ``.eaf`` (ELAN)
    speak of one video. With several videos, each has a file of its own, with the video's name behind the given one.

    Args:
        name: what the labels are of; the tier in ELAN.
    Raises: UsageError for another suffix.
    """
    target = check_spans_suffix(path)
    write = _WRITERS[target.suffix.lower()]
    files = list(dict.fromkeys(span.path for span in spans))
    if write in (_csv, _json) or len(files) <= 1:
        return [write_whole(target, write(spans, name))]
    written = []
    for file in files:
        own = target.with_name(f"{target.stem}-{file.replace('/', '_')}{target.suffix}")
        written.append(write_whole(own, write([span for span in spans if span.path == file], name)))
    return written


def check_spans_suffix(path: str | os.PathLike[str]) -> Path:
    """Raise UsageError unless spans can be written to this file."""
    target = Path(path)
    if target.suffix.lower() not in _WRITERS:
        raise UsageError(f"{target}: spans are written as {', '.join(_WRITERS)}")
    return target


def _csv(spans: Sequence[Span], name: str) -> str:
    del name
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Span._fields)
    writer.writerows(span._replace(probability=_plain(span.probability)) for span in spans)  # type: ignore[arg-type]
    return text.getvalue()


def _json(spans: Sequence[Span], name: str) -> str:
    return json.dumps({"label": name, "spans": plain_spans(spans)}, indent=1) + "\n"


def plain_spans(spans: Sequence[Span]) -> list[dict[str, object]]:
    """Plain values, as JSON takes them."""
    return [{**span._asdict(), "probability": _plain(span.probability)} for span in spans]


def _plain(probability: float) -> float | None:
    return None if np.isnan(probability) else probability


def _vtt(spans: Sequence[Span], name: str) -> str:
    """WebVTT: a cue for each span, which players show as a subtitle."""
    del name

    def clock(seconds: float) -> str:
        ms = round(1000 * seconds)
        return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"

    cues = []
    for span in spans:
        text = " ".join(span.label.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        sure = "" if np.isnan(span.probability) else f" ({span.probability:.2f})"
        cues.append(f"{clock(span.start_s)} --> {clock(span.end_s)}\n{text}{sure}\n")
    return "\n".join(["WEBVTT\n", *cues])


def _eaf(spans: Sequence[Span], name: str) -> str:
    """ELAN's annotation format 3.0: time slots in milliseconds, one tier, a value for each span."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = Xml.Element("ANNOTATION_DOCUMENT", AUTHOR="unreel", DATE=now, FORMAT="3.0", VERSION="3.0")
    header = Xml.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    for path in dict.fromkeys(span.path for span in spans):
        kind = mimetypes.guess_type(path)[0] or "video/mp4"
        Xml.SubElement(
            header, "MEDIA_DESCRIPTOR", MEDIA_URL=path, MIME_TYPE=kind, RELATIVE_MEDIA_URL=f"./{Path(path).name}"
        )
    order = Xml.SubElement(document, "TIME_ORDER")
    times = sorted({round(1000 * seconds) for span in spans for seconds in (span.start_s, span.end_s)})
    slots = {ms: f"ts{i}" for i, ms in enumerate(times, 1)}
    for ms, slot in slots.items():
        Xml.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(ms))
    tier = Xml.SubElement(document, "TIER", LINGUISTIC_TYPE_REF="default-lt", TIER_ID=name)
    for i, span in enumerate(spans, 1):
        first, last = (slots[round(1000 * seconds)] for seconds in (span.start_s, span.end_s))
        names = {"ANNOTATION_ID": f"a{i}", "TIME_SLOT_REF1": first, "TIME_SLOT_REF2": last}
        alignable = Xml.SubElement(Xml.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", names)
        Xml.SubElement(alignable, "ANNOTATION_VALUE").text = span.label
    Xml.SubElement(
        document,
        "LINGUISTIC_TYPE",
        GRAPHIC_REFERENCES="false",
        LINGUISTIC_TYPE_ID="default-lt",
        TIME_ALIGNABLE="true",
    )
    Xml.indent(document)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(document, encoding="unicode") + "\n"


_WRITERS: dict[str, Callable[[Sequence[Span], str], str]] = {
    ".csv": _csv,
    ".vtt": _vtt,
    ".eaf": _eaf,
    ".json": _json,
}
