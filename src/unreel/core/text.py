"""Text that people read, whatever the bytes it came from."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


def shown(text: str) -> str:
    r"""A text as it can be shown and written: bytes of a name that are no UTF-8 become ``\xe9``, all else stays.

    Python keeps such bytes of file names as lone surrogates, which no file and no terminal takes. Two names stay two.

    >>> shown("caf\udce9.mp4"), shown("café.mp4")
    ('caf\\xe9.mp4', 'café.mp4')
    """
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") if _broken(text) else text


def one_line(text: str) -> str:
    r"""A text as ``shown``, on one line: line breaks and marks that change the direction of writing are spelt out.

    >>> one_line("two\nlines"), one_line("a\u202eb")
    ('two\\nlines', 'a\\u202eb')
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown(text))


def first_few(names: Sequence[str], most: int = 5) -> str:
    """The first names of some, and a sign where there are more.

    >>> first_few(["a", "b"]), first_few(["a", "b", "c"], 2)
    ('a, b', 'a, b …')
    """
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def listed(mark: str, messages: Sequence[str], most: int = 10) -> list[str]:
    """A line with this mark for each of the first messages, and one that says how many more there are.

    >>> listed("fault: ", ["a", "b", "c"], most=2)
    ['fault: a', 'fault: b', 'fault: … and 1 more']
    """
    more = [f"… and {len(messages) - most} more"] if len(messages) > most else []
    return [f"{mark}{message}" for message in [*messages[:most], *more]]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table: text to the left, numbers to the right, two spaces between columns."""
    cells = [header, *([one_line(str(c)) for c in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()

    return "\n".join(map(line, cells))


def is_utf8(text: str) -> bool:
    """Whether every character can be written as UTF-8: no byte of a name was kept as it is."""
    return text.isascii() or not _broken(text)


def _broken(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


# What stands in for the signs of our own messages where a terminal has no such character.
_PLAIN = {
    **{"×": "x", "²": "^2", "…": "...", "→": "->", "–": "-", "—": "-", "−": "-", "·": "-", "≥": ">=", "≤": "<="},
    **{"━": "=", "─": "-", "│": "|", "±": "+-", "≈": "~", "µ": "u", "σ": "sigma", "τ": "tau", "•": "*"},
}
ON_TERMINALS = "unreel.terminal"
"""An error handler of encoders (``errors=``): what a terminal cannot show is written out ("->", ``\\xe9``)."""


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or shown(c).encode("ascii", "backslashreplace").decode() for c in found), error.end


codecs.register_error(ON_TERMINALS, _replace)
