"""Damaged videos, by the benchmark's own mutations: frames that a decode also gives, or a typed error; no crash."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_mutated_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delitem(sys.modules, "mutated_media", raising=False)
    import mutated_media

    good = mutated_media.make_videos(tmp_path)
    outcomes: Counter[str] = Counter()
    wrong = []
    for number in range(105):
        mutation, name, data = mutated_media.mutated(good, number, seed=0)
        path = tmp_path / f"{number}{Path(name).suffix}"
        path.write_bytes(data)
        outcome = mutated_media.read_video(path)
        outcomes[outcome] += 1
        if outcome in mutated_media.FAULTS:
            wrong.append(f"{outcome}: {mutation} of {name}, number {number}")
    assert not wrong
    assert outcomes["same"] > 50
    assert outcomes["TruncatedError"] + outcomes["UnreadableError"] > 0
