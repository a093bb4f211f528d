"""Damaged pictures are read as Pillow reads them, or refused by a type that names the file (benchmarks/)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def test_damaged_pictures(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "mutated_pictures.py"
    spec = importlib.util.spec_from_file_location("mutated_pictures", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    outcomes, wrong = module.run(tmp_path, 5 * len(module.KINDS), 20)
    assert not wrong
    results = [outcome.result for found in outcomes.values() for outcome in found]
    assert {"TruncatedError", "UnreadableError", "as Pillow", "unchanged"} <= set(results)
