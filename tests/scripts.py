"""The benchmarks as modules: ``script("atlas")`` is what ``python benchmarks/atlas.py`` runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")


def script(name: str) -> ModuleType:
    """A script of the folder benchmarks, which finds the others beside it."""
    if BENCHMARKS not in sys.path:
        sys.path.append(BENCHMARKS)
    return importlib.import_module(name)
