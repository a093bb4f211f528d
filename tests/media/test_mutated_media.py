"""Damaged videos, by the benchmark's own mutations: frames that a decode also gives, or a typed error; no crash."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.scripts import script


def test_mutated_videos(tmp_path: Path) -> None:
    module = script("mutated_media")
    # FFV1 has checksums, and a test of its own in test_video.py.
    kind = module.KIND._replace(make=lambda folder: [p for p in module.make_videos(folder) if "ffv1" not in p.name])
    tried = [(number, made.way, made.group, found) for number, made, _, found in kind.tried(tmp_path, 105, 0)]
    assert not [one for one in tried if one[-1].startswith(script("mutants").FAULTS)]
    outcomes = Counter(found for *_, found in tried)
    assert outcomes["same"] > 50
    assert outcomes["TruncatedError"] + outcomes["UnreadableError"] > 0
