"""The errors users meet. A message says what was found, where, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UnreelError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback and exits with 1."""


class UsageError(UnreelError, ValueError):
    """The call itself was wrong (an unknown name, a value out of range); the command line exits with 2."""


class DataError(UnreelError):
    """The data cannot be used as asked (missing files, a malformed table, an empty selection)."""


def nearest(name: str, options: Iterable[str], *, limit: int = 3, cutoff: float = 0.5) -> list[str]:
    """The ``limit`` options most like ``name``, best first; empty when none is as like as ``cutoff`` (1 is equal)."""
    return get_close_matches(name, sorted(options), n=limit, cutoff=cutoff)


def unknown_name(kind: str, name: str, options: Iterable[str]) -> UsageError:
    """An error for a name that is not among ``options``, naming the nearest ones."""
    known = sorted(options)
    close = nearest(name, known)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}?" if close else f"known: {', '.join(known)}."
    return UsageError(f"unknown {kind} {name!r}; {hint}")
