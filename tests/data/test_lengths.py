"""Rows too short for a sampler (docs/methods/tcgl.md, Sampling)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unreel.data.choice import long_enough
from unreel.data.contracts import min_frames
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import PairSampler
from unreel.data.snippets import SnippetSampler
from unreel.media import write_video

FRAMES = {"long.mp4": 16, "just.mp4": 12, "short.mp4": 11}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lengths")
    for name, count in FRAMES.items():
        write_video(path / name, np.full((count, 16, 16, 3), 90, np.uint8), fps=10)
    (path / "broken.mp4").write_bytes(b"no video")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def test_rows_below_the_minimum_are_left_out_and_counted(folder: Path) -> None:
    found = long_enough(Manifest.from_folder(folder), 12)
    assert found.short == 1
    # What cannot be probed stays: training replaces it and lists the fault.
    assert {r.path for r in found.manifest} == {"long.mp4", "just.mp4", "broken.mp4"}
    assert {r.path: r.facts.num_frames for r in found.manifest if r.facts} == {"long.mp4": 16, "just.mp4": 12}


def test_a_spans_own_frames_count(folder: Path) -> None:
    spans = [(None, None), (0.4, None), (0.5, None), (0.0, 1.2), (0.0, 1.1), (5.0, None)]
    rows = tuple(Row("long.mp4", start_s=a, end_s=b) for a, b in spans)
    found = long_enough(Manifest(str(folder), rows), 12)
    assert [(r.start_s, r.end_s) for r in found.manifest] == [(None, None), (0.4, None), (0.0, 1.2)]
    assert found.short == 3


def test_nothing_is_probed_without_a_minimum(tmp_path: Path) -> None:
    manifest = Manifest(str(tmp_path), (Row("absent.mp4"),))
    assert long_enough(manifest, 1).manifest is manifest


def test_a_sampler_without_a_minimum_needs_one_frame() -> None:
    assert min_frames(PairSampler()) == 1
    assert min_frames(SnippetSampler()) == 64
