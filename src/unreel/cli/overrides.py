"""Overrides from the command line: ``--set SECTION.KEY=VALUE``, written short as ``--SECTION.KEY VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from unreel.core.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from unreel.core.strict_yaml import Sections

Overrides: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        negative="",
        show_default=False,
        help="Change a setting: SECTION.KEY=VALUE. --SECTION.KEY VALUE does the same. You may repeat it.",
    ),
]

SHORT_NAMES = frozenset({"pretrain"})
"""Commands whose settings need no section where only one has the name: ``--epochs 3``, as in Python."""


def split_overrides(overrides: Sequence[str]) -> tuple[Sections, dict[str, object]]:
    """Settings with their section, and those given by their name alone (``epochs=3``)."""
    from unreel.core.strict_yaml import parse_value

    bare = [text for text in overrides if "=" in text and "." not in text.partition("=")[0]]
    names = {text.partition("=")[0].strip().replace("-", "_"): parse_value(text.partition("=")[2]) for text in bare}
    return to_sections([text for text in overrides if text not in bare]), names


def to_sections(overrides: Sequence[str], *known: str) -> Sections:
    """Two-level settings from ``section.key=value`` texts, of the known sections where they are given.

    Raises: UsageError for another form, or another section.
    """
    from unreel.core.strict_yaml import parse_value

    sections: Sections = {}
    for text in overrides:
        address, equals, value = text.partition("=")
        section, dot, key = address.strip().partition(".")
        if not (equals and dot and section and key):
            raise UsageError(f"--set {text}: expected SECTION.KEY=VALUE, such as --set method.temperature=0.2")
        if known and section.strip() not in known:
            raise unknown_name("section", section.strip(), known)
        sections.setdefault(section.strip(), {})[key.strip().replace("-", "_")] = parse_value(value)
    return sections
