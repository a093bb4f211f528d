"""Windows of a row: which seconds they are, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from unreel.core.errors import UsageError
from unreel.data.manifest import Manifest
from unreel.data.row import Row
from unreel.data.windows import windowed, windows
from unreel.media import write_video
from unreel.media.decoder import VideoInfo

FACTS = VideoInfo(width=8, height=8, num_frames=80, duration_s=10.0, fps=8.0, codec="x")


@pytest.mark.parametrize(
    ("length", "window", "every", "starts"),
    [
        (3.0, 1.0, None, [0, 1, 2]),
        (2.4, 1.0, None, [0, 1]),
        (2.6, 1.0, None, [0, 1, 2]),
        (0.3, 1.0, None, [0]),
        (5.0, 2.0, 1.0, [0, 1, 2, 3]),
        (5.4, 2.0, 1.0, [0, 1, 2, 3]),
        (5.6, 2.0, 1.0, [0, 1, 2, 3, 4]),
        (0.9, 0.3, 0.1, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    ],
)
def test_windows_cover_a_row(length: float, window: float, every: float | None, starts: list[float]) -> None:
    """From its start to its end, each of one length but the last; the labels are the row's."""
    row = Row("a.mp4", start_s=2.0, end_s=2.0 + length, facts=FACTS, labels={"label": "x"}, groups={"group": "g"})
    found = windows(row, window, every)
    assert [w.start_s for w in found] == pytest.approx([2 + s for s in starts])
    assert [w.end_s for w in found[:-1]] == pytest.approx([2 + s + window for s in starts[:-1]])
    assert found[-1].end_s == 2.0 + length
    assert abs(length - starts[-1] - window) <= (every or window) / 2 + 1e-9 or len(found) == 1
    assert {(w.path, *w.labels.values(), *w.groups.values()) for w in found} == {("a.mp4", "x", "g")}
    if every is None:
        assert all(a.end_s == b.start_s for a, b in pairwise(found))


def test_a_row_of_unknown_length_stays_whole() -> None:
    assert windows(Row("b.mp4"), 1.0) == [Row("b.mp4")]


@pytest.mark.parametrize(("window", "every"), [(0.0, None), (1.0, 0.0), (1.0, 2.0), (None, 1.0), (-1.0, -1.0)])
def test_windows_that_cannot_be_are_refused_before_any_file_is_opened(
    window: float | None, every: float | None
) -> None:
    with pytest.raises(UsageError, match=r"window|every"):
        windowed("nowhere", window, every)


def test_the_windows_of_a_folder_take_the_place_of_its_videos(tmp_path: Path) -> None:
    """What is no video stays as it is: the fault is met where it is read."""
    for name, count in (("a", 10), ("b", 4)):
        write_video(tmp_path / f"{name}.mp4", np.zeros((count, 16, 16, 3), np.uint8), fps=4)
    (tmp_path / "c.mp4").write_bytes(b"nothing")
    manifest = windowed(tmp_path, 1.0, 0.5)
    assert isinstance(manifest, Manifest)
    spans = [(row.path, row.start_s, row.end_s) for row in manifest]
    assert spans == [*(("a.mp4", s, s + 1) for s in (0, 0.5, 1, 1.5)), ("b.mp4", 0, 1), ("c.mp4", None, None)]
    assert windowed(tmp_path) is tmp_path
