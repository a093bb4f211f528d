"""Damaged pictures are read as Pillow reads them, or refused by a type that names the file (benchmarks/)."""

from __future__ import annotations

from pathlib import Path

from tests.scripts import script


def test_damaged_pictures(tmp_path: Path) -> None:
    module = script("mutated_pictures")
    tried = [
        (number, made.way, made.group, found)
        for number, made, _, found in module.KIND.tried(tmp_path, 5 * len(module.KINDS), 20)
    ]
    assert not [one for one in tried if one[-1].startswith(script("mutants").FAULTS)]
    assert {"TruncatedError", "UnreadableError", "as Pillow", "unchanged"} <= {found for *_, found in tried}
