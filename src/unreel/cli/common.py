"""What every command shares: the common options and the one way to print."""

from __future__ import annotations

import json as json_module
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cyclopts import Group, Parameter


class _Log(logging.Handler):
    """Messages of the parts, on the stderr of the moment; notices of the data are said once, and kept for JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = False
        self.notices: list[str] = []

    def begin(self, *, quiet: bool) -> None:
        """A command begins; a quiet one shows warnings only."""
        self.quiet, self.notices = quiet, []

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message, unless it is a notice that was printed before."""
        message = self.format(record)
        if hasattr(record, "notice"):
            if message in self.notices:
                return
            self.notices.append(message)
        if record.levelno >= logging.WARNING:
            print(f"{record.levelname.lower()}: {message}", file=sys.stderr)
        elif not self.quiet:
            print(message, file=sys.stderr)


LOG = _Log()


@Parameter(name="*", group=Group("Common options", sort_key=99))
@dataclass(frozen=True)
class Common:
    """Options of every command."""

    json: bool = False
    "Print one JSON object instead of text."
    quiet: bool = False
    "Show no progress."
    debug: bool = False
    "Show the traceback of an error."

    def print(self, data: Mapping[str, object], text: str) -> None:
        """Print the outcome on stdout: ``data`` for machines, ``text`` for people."""
        if self.json:
            print_json({"notices": LOG.notices, **data} if LOG.notices else data)
        elif text:
            sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()

    def say(self, line: str) -> None:
        """A line about what is going on, on stderr; silent with --quiet."""
        if not self.quiet:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


NO_OPTIONS = Common()


def print_json(data: Mapping[str, object]) -> None:
    """One line of JSON on stdout; escaped where stdout cannot hold every letter, so that it stays JSON."""
    text = json_module.dumps(data, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_module.dumps(data, default=str)
    sys.stdout.write(text + "\n")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table: text to the left, numbers to the right, two spaces between columns."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [
        max(len(header[i]), *(len(row[i]) for row in cells)) if cells else len(header[i]) for i in range(len(header))
    ]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()

    return "\n".join([line(header), *(line(row) for row in cells)])
