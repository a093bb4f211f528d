"""What every command shares: the common options and the one way to print."""

from __future__ import annotations

import json as json_module
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import Group, Parameter

from unreel.core.errors import UsageError


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

_COMPUTING = Group("Where and how it computes", sort_key=98)


@Parameter(name="*", group=_COMPUTING)
@dataclass(frozen=True)
class Computing:
    """Options of every command that computes."""

    device: str | None = None
    "cpu, cuda, cuda:1, or mps. The default is the best one there is."
    workers: int | None = None
    "How many processes read files. 0 reads in this process. The default suits the device and the cores."
    factory: str | None = None
    "Your code that builds the encoder, as package.module:factory. Only an encoder that was made by such code needs it."

    def check(self) -> None:
        """Raise UsageError for what cannot be, before any work."""
        from unreel.core.devices import choose_device

        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers {self.workers}: expected a number of processes, 0 or more")
        if self.factory is not None:
            from unreel.nn.foreign import name_factory

            name_factory(self.factory)
        choose_device(self.device)

    def options(self) -> dict[str, Any]:
        """What a function of ``unreel.api`` is given of these."""
        self.check()
        return {name: value for name, value in vars(self).items() if name != "factory"}


@Parameter(name="*", group=_COMPUTING)
@dataclass(frozen=True)
class Embedding(Computing):
    """Options of every command that encodes videos."""

    batch_size: int | None = None
    "How many clips to encode at a time. The default suits the memory. The last digits of vectors may depend on it."
    store: Path | None = None
    "Folder that keeps the embeddings, so that the same ones are not computed twice. The default is the folder \
features of the run or, for other encoders, of your cache. none: keep nothing."

    def check(self) -> None:
        """Raise UsageError for what cannot be, before any work."""
        super().check()
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: expected at least 1")

    def options_for(self, encoder: Path) -> dict[str, Any]:
        """As ``options``, with the store; ``encoder``: the run or the file, which decides where features are kept."""
        given = self.options()
        from unreel.protocols.store import FeatureStore

        if self.store is None:
            given["store"] = FeatureStore.usual(encoder)
        elif self.store == Path("none"):
            given["store"] = None
        return given


@Parameter(name="*")
@dataclass(frozen=True)
class Windows:
    """Options of commands that cut long videos into windows."""

    window: float | None = None
    "Cut each video into windows of this many seconds. Each window then counts as a video of its own."
    every: float | None = None
    "Seconds from the start of one window to the next. The default is the length of a window: no overlap."


WHOLE = Windows()


@Parameter(name="*", group=Group("Columns of a table (CSV, Parquet)", sort_key=97))
@dataclass(frozen=True)
class Columns:
    """Which columns of the data's table are meant, of every command that takes data."""

    path: str | None = None
    "The column with the files. Usual names, such as path, file, clip or video, are found without this option."
    label: str | None = None
    "The column with the label. Any column can be it. The default is the column label, or the only label.NAME."
    group: str | None = None
    "The column with the group, such as a patient or a scene. Any column can be it. Files of one group stay together. \
The default is the column group, or the only group.NAME."
    split: str | None = None
    "The column that says which part a row is in, such as train or test."
    start: str | None = None
    "The column with the second at which a row's span of the file starts."
    end: str | None = None
    "The column with the second at which a row's span of the file ends."

    def named(self) -> dict[str, str]:
        """What was said, for a function of ``unreel.api``."""
        return {name: value for name, value in vars(self).items() if value is not None}


USUAL_COLUMNS = Columns()
BEST = Computing()
BEST_EMBEDDING = Embedding()


def print_json(data: Mapping[str, object]) -> None:
    """One line of JSON on stdout; escaped where stdout cannot hold every letter, so that it stays JSON."""
    text = json_module.dumps(data, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json_module.dumps(data, default=str)
    sys.stdout.write(text + "\n")
