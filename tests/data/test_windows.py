"""Windows of a row: which seconds they are, what is in them, what reading them costs, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from unreel.core.errors import UsageError
from unreel.data.dataset import EvaluationDataset
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest
from unreel.data.row import Row
from unreel.data.sampling import ClipPlan
from unreel.data.windows import apart, windowed, windows
from unreel.media import PyAVDecoder, write_video
from unreel.media.decoder import VideoInfo
from unreel.media.source import Source

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


PLAN = ClipPlan(num_frames=3, stride=2, num_clips=2, num_crops=1, size_px=16, short_side_px=16)


def film(path: Path, count: int) -> EvaluationDataset:
    """Windows of one second that overlap, over a video whose frames refer to each other both ways."""
    rng = np.random.default_rng(count)
    frames = np.clip(128 + np.cumsum(rng.normal(0, 4, (count, 24, 32, 3)), 0), 0, 255).astype(np.uint8)
    write_video(path, frames, fps=10, gop=15, options={"bf": "2"})
    return EvaluationDataset(windowed([path], 1.0, 0.4), PLAN)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often a file was opened and a packet was decoded."""
    counts = {"opened": 0, "decoded": 0}

    def count(name: str, method: str) -> None:
        function = getattr(Source, method)

        def counting(*args: object) -> object:
            counts[name] += 1
            return function(*args)

        monkeypatch.setattr(Source, method, counting)

    count("opened", "_open")
    count("decoded", "decode")
    return counts


@pytest.mark.parametrize("order", ["forward", "shuffled", "workers"])
def test_windows_hold_what_each_holds_by_itself(order: str, tmp_path: Path) -> None:
    together = film(tmp_path / "a.mp4", 97)
    rows = np.random.default_rng(0).permutation(len(together)) if order == "shuffled" else np.arange(len(together))
    found = iterate_evaluation(together, rows.tolist(), workers=2 if order == "workers" else 0)
    for row, sample in zip(rows, found, strict=True):
        alone = EvaluationDataset(together.manifest.subset([row]), PLAN).read(0)
        assert sample.row == row
        assert torch.equal(sample.views, alone.views)
        assert torch.equal(sample.times_s, alone.times_s)


def test_a_long_file_is_opened_and_decoded_once_and_little_of_it_is_kept(tmp_path: Path, steps: dict[str, int]) -> None:
    kept = {}
    for count in (60, 240):
        windows_of = film(tmp_path / f"{count}.mp4", count)
        PyAVDecoder().probe(tmp_path / f"{count}.mp4")  # reads the packets
        steps.update(opened=0, decoded=0)
        kept[count] = 0
        for _ in iterate_evaluation(windows_of):
            kept[count] = max(kept[count], len(windows_of._kept))
        assert steps["opened"] == 1
        assert steps["decoded"] <= count
    assert kept[240] == kept[60]


def test_a_file_that_breaks_off_costs_the_windows_behind_the_break(tmp_path: Path) -> None:
    """Those before it are read, each fault names its window's file, and the next file is whole."""
    whole = film(tmp_path / "a.ts", 80)
    (tmp_path / "b.ts").write_bytes((tmp_path / "a.ts").read_bytes()[: (tmp_path / "a.ts").stat().st_size // 2])
    rows = tuple(replace(row, path=name) for name in ("b.ts", "a.ts") for row in whole.manifest)
    cut = EvaluationDataset(replace(whole.manifest, rows=rows), PLAN)
    found = list(iterate_evaluation(cut))
    readable = [sample.fault is None for sample in found[: len(whole)]]
    assert readable == sorted(readable, reverse=True)
    assert 0 < sum(readable) < len(whole)
    assert {sample.fault.path for sample in found[: len(whole)] if sample.fault} == {"b.ts"}
    for sample, other in zip(found[len(whole) :], iterate_evaluation(whole), strict=True):
        assert torch.equal(sample.views, other.views)


def test_places_apart_share_no_time() -> None:
    """Down the list: touching is no overlap, another file is another place, a whole file has all time."""
    ranked = [
        ("a", (2.0, 6.0)),
        ("a", (4.0, 8.0)),
        ("a", (6.0, 10.0)),
        ("b", (2.0, 6.0)),
        ("b", None),
        ("a", (0.0, None)),
    ]
    assert apart(ranked, 10) == [0, 2, 3]
    assert apart(ranked, 2) == [0, 2]
    assert apart(ranked, 10, taken=[("a", (5.0, 7.0)), ("c", None)]) == [3]
    assert apart(ranked, 10, taken=[("a", None), ("b", (3.0, 4.0))]) == []
