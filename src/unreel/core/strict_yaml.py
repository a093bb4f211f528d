"""YAML as recipes use it: two levels of plain values, duplicate keys refused, numbers read as numbers."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import yaml

from unreel.core.errors import UsageError


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML without duplicate keys, and with 1e-6 read as the number it is."""


def _strict_mapping(loader: _StrictLoader, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
    seen: dict[object, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise UsageError(
                f"{key_node.start_mark.name}:{line}: {key!r} is set twice (first on line {seen[key]}); keep one of them"
            )
        seen[key] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _strict_mapping)
# YAML 1.1, hence PyYAML, reads 1e-6 as text: it wants 1.0e-6.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, *, source: str = "settings") -> object:
    """Plain values from YAML text. Raises UsageError, with file and line, for malformed text and duplicate keys."""
    loader = _StrictLoader(text)
    loader.name = source
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "malformed YAML"
        raise UsageError(f"{source}{line}: {problem}") from None
    finally:
        loader.dispose()


def parse_value(text: str) -> object:
    """One value from a command line: ``0.2``, ``true``, ``none``, ``[1, 1, 1, 1]``, or text."""
    if text.strip().lower() == "none":
        return None
    try:
        return parse_yaml(text)
    except UsageError:
        return text


Sections: TypeAlias = dict[str, dict[str, object]]


def check_shape(data: object, *, source: str) -> Sections:
    """Two levels of plain settings, as recipes and overrides hold them. Raises UsageError otherwise."""
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"{source}: expected sections (method: …), found {type(data).__name__}")
    sections: Sections = {}
    for section, values in data.items():
        if not isinstance(values, dict | type(None)):
            raise UsageError(f"{source}: section {section!r} must hold settings (key: value), found {values!r}")
        for key, value in (values or {}).items():
            if isinstance(value, dict):
                raise UsageError(f"{source}: {section}.{key} holds a mapping; settings are two levels deep at most")
        sections[str(section)] = {str(k): v for k, v in (values or {}).items()}
    return sections


def load_sections(path: str | PathLike[str]) -> Sections:
    """Read a recipe or a run's config.yaml. Raises UsageError naming the file."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror or error})") from None
    return check_shape(parse_yaml(text, source=str(file)), source=str(file))
