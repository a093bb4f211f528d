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
