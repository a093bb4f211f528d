"""Spans of windows: what overlapping windows say together, and files that others read."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from unreel.core.errors import UsageError
from unreel.tasks.spans import Span, merge_spans, write_spans

ROWS = [(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 10.5)]
A = np.array([0.9, 0.8, 0.3, 0.1])
BOTH = np.stack([A, 1 - A], 1)


def slow(rows: list[tuple[float, float]], probabilities: np.ndarray, at: float) -> np.ndarray:
    return np.mean([p for (a, b), p in zip(rows, probabilities, strict=True) if a <= at < b], axis=0)


def test_overlapping_windows_are_averaged_and_neighbours_of_one_label_joined() -> None:
    found = merge_spans([("v.mp4", *row) for row in ROWS], ("a", "b"), BOTH)
    # 0-2: 0.9, 2-4: 0.85, 4-6: 0.55, then b with 0.8 on 6-8 and 0.9 on 8-10.5.
    assert [(s.start_s, s.end_s, s.label) for s in found] == [(0, 6, "a"), (6, 10.5, "b")]
    assert found[0].probability == pytest.approx((0.9 + 0.85 + 0.55) / 3)
    assert found[1].probability == pytest.approx((2 * 0.8 + 2.5 * 0.9) / 4.5)


@pytest.mark.parametrize("step", [1.0, 1.5, 4.0])
def test_every_moment_has_the_label_that_a_plain_average_gives(step: float) -> None:
    rng = np.random.default_rng(0)
    rows = [(k * step, k * step + 4) for k in range(12)]
    probabilities = rng.dirichlet(np.ones(3), 12)
    order = rng.permutation(12)
    found = merge_spans([("v", *rows[i]) for i in order], tuple("abc"), probabilities[order])
    moments = np.arange(0.01, rows[-1][1], 0.1)
    for at in moments:
        (span,) = (s for s in found if s.start_s <= at < s.end_s)
        assert span.label == "abc"[int(slow(rows, probabilities, at).argmax())]
    assert all(a.label != b.label for a, b in pairwise(found))
    inside = [slow(rows, probabilities, at).max() for at in moments if found[0].start_s <= at < found[0].end_s]
    assert found[0].probability == pytest.approx(np.mean(inside), abs=0.02)


def test_a_gap_and_another_file_end_a_span_and_unknown_seconds_are_left_out() -> None:
    windows = [("a", 0.0, 1.0), ("a", 2.0, 3.0), ("b", 0.0, 1.0), ("b", 1.0, 2.0), ("c.png", None, None)]
    found = merge_spans(windows, ("x", "y"), np.tile([0.7, 0.3], (5, 1)))
    assert [(s.path, s.start_s, s.end_s) for s in found] == [("a", 0, 1), ("a", 2, 3), ("b", 0, 2)]
    assert merge_spans([], ("x",), np.zeros((0, 1))) == ()


SPANS = [Span("in/talk.mp4", 0.0, 3723.0005, "a, <b> & c", 0.75), Span("in/talk.mp4", 3723.0005, 3724.5, "é", np.nan)]


def test_tables_hold_every_span(tmp_path: Path) -> None:
    (table,) = write_spans([*SPANS, SPANS[0]._replace(path="o.mp4")], tmp_path / "s.csv")
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "start_s", "end_s", "label", "probability"]
    assert [(r["path"], float(r["start_s"]), r["label"], r["probability"]) for r in rows] == [
        ("in/talk.mp4", 0.0, "a, <b> & c", "0.75"),
        ("in/talk.mp4", 3723.0005, "é", ""),
        ("o.mp4", 0.0, "a, <b> & c", "0.75"),
    ]
    (file,) = write_spans(SPANS, tmp_path / "s.json", name="what")
    plain = json.loads(file.read_text(encoding="utf-8"))
    assert plain["label"] == "what"
    assert [span["probability"] for span in plain["spans"]] == [0.75, None]
    with pytest.raises(UsageError, match=r"\.csv, \.vtt, \.eaf, \.json"):
        write_spans(SPANS, tmp_path / "s.txt")


def test_subtitles_are_cues_of_one_video(tmp_path: Path) -> None:
    (file,) = write_spans(SPANS, tmp_path / "s.vtt")
    assert file.read_text(encoding="utf-8") == (
        "WEBVTT\n\n00:00:00.000 --> 01:02:03.000\na, &lt;b&gt; &amp; c (0.75)\n\n01:02:03.000 --> 01:02:04.500\né\n"
    )
    two = write_spans([SPANS[0], SPANS[1]._replace(path="o.mp4")], tmp_path / "s.vtt")
    assert [path.name for path in two] == ["s-in_talk.mp4.vtt", "s-o.mp4.vtt"]
    assert [path.read_text(encoding="utf-8").count("-->") for path in two] == [1, 1]


def test_elan_finds_what_it_expects(tmp_path: Path) -> None:
    """The order of elements and the references of its schema (EAFv3.0): slots ascend, annotations do not overlap."""
    (file,) = write_spans(SPANS, tmp_path / "s.eaf", name="behaviour")
    document = ElementTree.parse(file).getroot()
    assert (document.tag, [part.tag for part in document]) == (
        "ANNOTATION_DOCUMENT",
        ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE"],
    )
    assert {"AUTHOR", "DATE", "FORMAT", "VERSION"} <= set(document.attrib)
    header, order, tier, kind = document
    assert header.attrib["TIME_UNITS"] == "milliseconds"
    assert header[0].attrib["RELATIVE_MEDIA_URL"] == "./talk.mp4"
    slots = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in order}
    assert list(slots.values()) == [0, 3723000, 3724500]
    assert tier.attrib == {"LINGUISTIC_TYPE_REF": kind.attrib["LINGUISTIC_TYPE_ID"], "TIER_ID": "behaviour"}
    found = []
    for annotation in tier:
        (alignable,) = annotation
        ends = [slots[alignable.attrib[f"TIME_SLOT_REF{k}"]] for k in (1, 2)]
        found.append((*ends, alignable[0].text))
    assert found == [(0, 3723000, "a, <b> & c"), (3723000, 3724500, "é")]
    ids = [annotation[0].attrib["ANNOTATION_ID"] for annotation in tier]
    assert len({*ids, *slots}) == 2 + 3
