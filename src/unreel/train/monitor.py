"""What a run writes down while it goes: metrics.jsonl and faults.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from unreel.core.checks import Count, checked
from unreel.core.distributed import rank
from unreel.core.files import append, make_folder, write_whole
from unreel.data.batch import Fault
from unreel.nn.encoder import Encoder

Probe = Callable[[Encoder], Mapping[str, float]]


def read_lines(path: str | PathLike[str]) -> Iterator[dict[str, Any]]:
    """The records of a .jsonl file; a last line cut off by a kill is left out."""
    file = Path(path)
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


class Monitor:
    """Writes a record every ``log_every`` steps, a line per fault, and asks a probe now and then.

    Args:
        folder: where metrics.jsonl and faults.jsonl go; None writes nothing.
        log_every: steps between records; each holds means over the steps since the last.
        echo: called with every record (a progress bar, a test).
        probe: an online measure of the encoder (a small kNN, say): called on rank 0 every ``probe_every`` steps with
            the encoder in eval mode; its values go into the record as ``probe.<name>``.
    """

    @checked
    def __init__(
        self,
        folder: str | PathLike[str] | None = None,
        *,
        log_every: Count = 10,
        echo: Callable[[Mapping[str, float]], None] | None = None,
        probe: Probe | None = None,
        probe_every: Count | None = None,
    ) -> None:
        self.folder = Path(folder) if folder is not None and rank() == 0 else None
        self.log_every, self.echo = log_every, echo
        self.probe, self.probe_every = probe, probe_every
        self.faults = 0
        if self.folder is not None:
            make_folder(self.folder)

    def resume(self, step: int) -> None:
        """Forget what a killed run wrote after the checkpoint at ``step``: those steps are done again."""
        self.faults = 0
        for name, key in (("metrics.jsonl", "step"), ("faults.jsonl", "at_step")):
            if self.folder is not None and (self.folder / name).is_file():
                kept = [r for r in read_lines(self.folder / name) if int(r[key]) <= step]
                self.faults += len(kept) if name == "faults.jsonl" else 0
                write_whole(self.folder / name, "".join(json.dumps(r) + "\n" for r in kept))

    def log(self, values: Mapping[str, float]) -> None:
        """One record; numbers that JSON cannot hold become null."""
        self._write("metrics.jsonl", {k: v if math.isfinite(v) else None for k, v in values.items()})
        if self.echo is not None and rank() == 0:
            self.echo(values)

    def fault(self, fault: Fault, *, step: int) -> None:
        """A file that could not be read in the batch of the step that brings the count to ``step``."""
        self.faults += 1
        self._write("faults.jsonl", {**asdict(fault), "at_step": step})

    def _write(self, name: str, record: Mapping[str, object]) -> None:
        if self.folder is not None:
            append(self.folder / name, json.dumps(record) + "\n")
