"""Damaged tables: each is read as it stands, or refused by name. 500 of them: benchmarks/mutated_tables.py."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "mutated_tables.py"
    spec = importlib.util.spec_from_file_location("mutated_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_read_or_refused(mutants: ModuleType, suffix: str, tmp_path: Path) -> None:
    mutants.tables(tmp_path)
    make = mutants.mutated_csv if suffix == ".csv" else mutants.mutated_parquet
    outcomes: Counter[str] = Counter()
    for number in range(36):
        kind, data = make(number, seed=1)
        (tmp_path / f"t{suffix}").write_bytes(data)
        outcome, said = mutants.judge(tmp_path / f"t{suffix}")
        assert outcome in ("right", "refused"), f"{number} ({kind}): {outcome}: {said}"
        outcomes[outcome] += 1
    assert min(outcomes["right"], outcomes["refused"]) > 5  # both are tried


def test_an_unharmed_table_is_right_and_a_wrong_reading_is_seen(
    mutants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutants.tables(tmp_path)
    (tmp_path / "t.csv").write_text(mutants._csv(mutants.ROWS), encoding="utf-8")
    assert mutants.judge(tmp_path / "t.csv") == ("right", "")
    (tmp_path / "t.csv").write_text(mutants._csv({**mutants.ROWS, "label": ["x"] * 12}), encoding="utf-8")
    monkeypatch.setattr("unreel.data.tables.read_text", lambda role, value: "y")
    assert mutants.judge(tmp_path / "t.csv")[0] == "wrong"
