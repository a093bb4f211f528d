"""What a cell of a table says: text, seconds, names of files, or nothing."""

from __future__ import annotations

import datetime
import json
import math
import numbers
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from unreel.core.errors import DataError
from unreel.core.text import is_utf8, one_line
from unreel.data.row import FACTS
from unreel.data.text import SAVE_AS

# How other programs write that a value is missing; read as an empty cell is, with a notice.
MISSING = frozenset(("NA", "N/A", "n/a", "#N/A", "<NA>", "NaT", "null", "Null", "NULL", "None"))
# What may be such a sign and may be a class; read as a class, with a notice.
DOUBTFUL = frozenset(("-", "--", "?", ".", "na", "none", "nil", "missing"))

_LONGEST = 80  # characters of a cell in a message
_SPACES = " \t\r\n"
_COMMA = re.compile(r"[+-]?\d*,\d+")
_KINDS: Mapping[str, type] = {"int": int, "float": float, "str": str}


def is_missing(value: Any) -> bool:
    """Whether a cell is empty, or holds a NaN, NaT or NA of whatever library."""
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        return True
    if isinstance(value, str | bytes | list | tuple | dict):
        return False
    try:
        return bool(value != value)
    except TypeError:  # pandas.NA is neither
        return True


def is_missing_sign(value: Any) -> bool:
    """Whether a text is one of ``MISSING``, or "nan" in any case."""
    if not isinstance(value, str) or len(value) > 12:
        return False
    plain = value.strip(_SPACES)  # and not a no-break space, see `literal`
    return plain in MISSING or plain.lower() in ("nan", "-nan", "+nan")


def literal(text: str) -> str:
    """A text for a table that is read back as it is, although it may look like a sign for a missing value.

    The no-break space before it is stripped on reading, as all spaces around labels are.
    """
    return f"\N{NO-BREAK SPACE}{text}" if is_missing_sign(text) else text


def read_text(role: str, value: Any) -> str:
    """A label, a group or a split. Whole numbers lose their ".0": a column with gaps comes as floats.

    Raises: DataError for a list or a struct, and for bytes that are no UTF-8.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        if not is_utf8(value):
            byte = next(ord(c) - 0xDC00 for c in value if not is_utf8(c))
            raise DataError(
                f"{role} holds {_said(value)}: the byte 0x{byte & 0xFF:02x} is not UTF-8, so which letter it "
                f"stands for is not certain; {SAVE_AS}"
            )
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, numbers.Number | Decimal | datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    raise DataError(f"{role} must be text, a number or a date, found a {_kind(value)}")


def read_name(role: str, value: Any) -> str:
    """A file's name, byte for byte. Raises: DataError for what is no name."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if not isinstance(value, str):  # a text of spaces may be a name
        value = "" if is_missing(value) else read_text(role, value)
    name = str(value)
    if "\0" in name:
        raise DataError(f"{role} holds a NUL character: {name!r}")
    return name


def read_names(value: Any) -> tuple[str, ...]:
    """``frames``: a list, a JSON list, or names separated by "|"."""
    if is_missing(value):
        return ()
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"frames is not a JSON list ({error})") from None
        else:
            value = value.split("|")
    if not isinstance(value, list | tuple):
        raise DataError(f"frames must be a list of names, found a {_kind(value)}")
    names = tuple(read_name("frames", name) for name in value)
    if not all(names):
        raise DataError(f"frames has an empty name among its {len(names)}")
    return names


def read_seconds(role: str, value: Any, *, comma: bool = False) -> float | None:
    """Seconds, of a number, a text or a duration; with ``comma`` "1,5" is 1.5. Raises: DataError for anything else."""
    if is_missing(value) or is_missing_sign(value):
        return None
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    plain = value.strip() if isinstance(value, str) else value
    if isinstance(plain, str) and comma and _COMMA.fullmatch(plain):
        plain = plain.replace(",", ".")
    if isinstance(plain, str | int | float | Decimal) and not isinstance(plain, bool):
        try:
            seconds = float(plain)
        except (ValueError, OverflowError):
            seconds = math.nan
        if math.isfinite(seconds):
            return seconds
    hint = ", with a point and not a comma" if isinstance(plain, str) and _COMMA.fullmatch(plain) else ""
    raise DataError(f"{role} must be a number of seconds{hint}, found {_said(value)}")


def read_fact(name: str, value: Any) -> Any:
    """A fact of probing. Raises: DataError for a value of another kind."""
    kind = FACTS[name]
    if kind == "bool":
        return value if isinstance(value, bool) else str(value).strip().lower() in ("true", "1")
    try:
        return _KINDS[kind](value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"fact.{name} must be {kind}, found {_said(value)}") from None


def _said(value: Any) -> str:
    text = f"'{one_line(value)}'" if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"


def _kind(value: Any) -> str:
    return {"dict": "struct", "tuple": "list"}.get(type(value).__name__, type(value).__name__)
