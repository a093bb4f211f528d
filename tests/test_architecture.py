"""What holds the house together: one list of layers, few dependencies, a cheap import."""

import importlib.metadata as metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "unreel"


def linter_layers() -> list[set[str]]:
    """From left to right, as the linter holds them (its own list runs from the top down)."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = [re.sub(r"[()\s]", "", layer).replace("unreel.", "").split("|") for layer in contract["layers"]]
    return [set(layer) for layer in reversed(layers)]


def documented_layers() -> list[set[str]]:
    line = re.search(r"^```\n(core →.*)\n```$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert line is not None, "docs/architecture.md has no fenced line that starts with: core →"
    return [{name.strip() for name in layer.split("|")} for layer in line[1].split("→")]


def test_the_documented_layers_are_the_linters() -> None:
    assert documented_layers() == linter_layers()


def test_every_folder_is_a_layer() -> None:
    rooms = {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()}
    rooms |= {p.stem for p in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert rooms <= set().union(*linter_layers())


def _requirements(distribution: str) -> set[str]:
    names = set()
    for text in metadata.requires(distribution) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.add(re.sub(r"[-_.]+", "-", requirement.name).lower())
    return names


def _closure(distribution: str) -> set[str]:
    seen: set[str] = set()
    waiting = [distribution]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _requirements(name)
    return seen


def _core() -> set[str]:
    return _closure("unreel") - _closure("torch") - {"unreel"}


def test_the_core_grows_no_further() -> None:
    """docs/decisions/0003.md: the libraries that the design names come to 33 packages, not to the 25 it aims at.

    matplotlib brings 9 more (contourpy, cycler, fonttools, kiwisolver, packaging, pillow, pyparsing, dateutil,
    tzdata), cyclopts with rich 6, scikit-learn 4, pydantic 3. Without matplotlib, or without cyclopts and rich, the
    aim would be reached.
    """
    packages = _core()
    assert len(packages) <= 33, sorted(packages)


@pytest.fixture(scope="module")
def loaded_by_import() -> dict[str, set[str]]:
    """Modules present after `import unreel` and after the command line was built, in one fresh process."""
    code = "import sys, unreel; print(*sys.modules); import unreel.cli; print(*sys.modules)"
    lines = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    return {"unreel": set(lines[0].split()), "unreel.cli": set(lines[1].split())}


@pytest.mark.parametrize("start", ["unreel", "unreel.cli"])
def test_nothing_heavy_is_imported_to_begin_with(loaded_by_import: dict[str, set[str]], start: str) -> None:
    heavy = {"torch", "numpy", "scipy", "sklearn", "av", "PIL", "matplotlib", "pyarrow", "pandas"}
    assert not loaded_by_import[start] & heavy


def test_no_global_generator_is_drawn_from() -> None:
    """Randomness is addressed by core.keys; these calls read or set state that anybody may change."""
    forbidden = re.compile(
        r"\b(np|numpy)\.random\.(rand|randn|randint|random|choice|shuffle|permutation|uniform|normal|seed)\("
        r"|^\s*import random\b|^\s*from random import\b|\brandom\.(random|randint|choice|shuffle|seed)\("
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if forbidden.search(line)
    ]
    assert not found, "\n".join(found)
