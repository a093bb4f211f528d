"""Overrides from the command line: ``--set SECTION.KEY=VALUE``, written short as ``--SECTION.KEY VALUE``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from unreel.core.errors import UsageError

if TYPE_CHECKING:
    from unreel.core.settings import Sections

Overrides: TypeAlias = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        negative="",
        show_default=False,
        help="SECTION.KEY=VALUE, a setting; --SECTION.KEY VALUE for short (--method.temperature 0.2). May be repeated.",
    ),
]


def to_sections(overrides: Sequence[str]) -> Sections:
    """Two-level settings from ``section.key=value`` texts. Raises UsageError for another form."""
    from unreel.core.settings import parse_value

    sections: Sections = {}
    for text in overrides:
        address, equals, value = text.partition("=")
        section, dot, key = address.strip().partition(".")
        if not (equals and dot and section and key):
            raise UsageError(f"--set {text}: expected SECTION.KEY=VALUE, such as --set method.temperature=0.2")
        sections.setdefault(section.strip(), {})[key.strip().replace("-", "_")] = parse_value(value)
    return sections
