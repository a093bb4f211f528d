"""Damaged tables: each is read as it stands, or refused by name. 500 of them: benchmarks/mutated_tables.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.scripts import script


def test_read_or_refused(tmp_path: Path) -> None:
    outcomes: dict[str, Counter[str]] = {".csv": Counter(), ".parquet": Counter()}
    for number, made, _, found in script("mutated_tables").KIND.tried(tmp_path, 72, 1):
        outcome = found.removesuffix(" with line")
        assert outcome in ("right", "refused"), f"{number} ({made.way}): {found}"
        outcomes[made.group][outcome] += 1
    for found in outcomes.values():
        assert min(found["right"], found["refused"]) > 5  # both are tried


def test_an_unharmed_table_is_right_and_a_wrong_reading_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("mutated_tables")
    module.make(tmp_path)
    (tmp_path / "t.csv").write_text(module._csv(module.ROWS), encoding="utf-8")
    assert module.judge(tmp_path / "t.csv") == "right"
    (tmp_path / "t.csv").write_text(module._csv({**module.ROWS, "label": ["x"] * 12}), encoding="utf-8")
    monkeypatch.setattr("unreel.data.tables.read_text", lambda role, value: "y")
    assert module.judge(tmp_path / "t.csv").startswith("WRONG")
