"""Complete settings, each with its source: flat YAML files, and how to find them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path

from unreel.core.errors import UsageError, unknown_name
from unreel.core.settings import Layer, load_layers
from unreel.core.strict_yaml import Sections, load_sections

__all__ = ["Recipe", "list_recipes", "load_recipe"]

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """A recipe file: its name, its first comment line, and its settings as layers (one per origin)."""

    name: str
    title: str
    path: Path
    layers: tuple[Layer, ...]

    @property
    def sections(self) -> Sections:
        return load_sections(self.path)


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of the built-in recipes that match a shell-style pattern."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml") if fnmatch(path.stem, pattern))


def load_recipe(name_or_path: str | PathLike[str]) -> Recipe:
    """A built-in recipe by name, or any YAML file; a run's config.yaml repeats that run.

    Raises: UsageError for an unknown name (with the nearest ones), an unreadable or a malformed file.
    """
    text = os.fspath(name_or_path)
    if text in list_recipes():
        path = _FOLDER / f"{text}.yaml"
    elif text.endswith((".yaml", ".yml")) or os.sep in text or Path(text).exists():
        path = Path(text)
        if path.is_dir():  # a run
            path = path / "config.yaml"
        if not path.is_file():
            raise UsageError(f"recipe {path}: there is no such file")
    else:
        raise unknown_name("recipe", text, list_recipes())
    from unreel.recipes.schema import with_parts  # it knows the methods, which a list of recipes does not need

    layers = with_parts(load_layers(path), text)  # first: it reports a malformed file with its line
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    title = first.removeprefix("#").strip() if first.startswith("#") else ""
    return Recipe(path.stem, title, path, tuple(layers))
