"""Checkpoints: written whole or not at all, read by the run that wrote them or not at all."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from unreel.core.checks import Count, checked
from unreel.core.digests import mapping_digest
from unreel.core.distributed import from_rank_0, rank
from unreel.core.errors import UnreelError, UsageError
from unreel.core.files import replacing

_FORMAT = 1
_NAME = re.compile(r"step-(\d{9})\.pt")

log = logging.getLogger(__name__)


def _flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Settings that differ, as "optimizer.lr was 0.1, is 0.2"; empty when the runs are the same."""
    a, b = _flat(old), _flat(new)
    missing = "unset"
    return [
        f"{key} was {a.get(key, missing)}, is {b.get(key, missing)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, missing) != b.get(key, missing)
    ]


class Checkpoints:
    """A folder of checkpoints, ``step-000000100.pt``, of which the last few are kept.

    A file is written under another name, flushed to the disk and renamed, so that a name always stands for a whole
    file. Should the newest be unreadable nevertheless (a full disk, a broken copy), the one before it is used, and a
    warning says so. Rank 0 writes and chooses; every rank reads the same file, so the folder must be shared.

    Args:
        folder: made when missing.
        every_steps: save whenever this many steps are done; None leaves it to time.
        every_s: save when this many seconds have passed since the last one; None leaves it to steps.
        keep: how many to keep; two survive a broken last one.
    """

    @checked
    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        every_steps: Count | None = None,
        every_s: float | None = 600.0,
        keep: Count = 2,
    ) -> None:
        self.folder = Path(folder)
        self.every_steps, self.every_s, self.keep = every_steps, every_s, keep
        self._last_s = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save after ``step`` steps, by their count: the same answer on every process."""
        return self.every_steps is not None and step % self.every_steps == 0

    def overdue(self) -> bool:
        """Whether to save by this process's clock; processes must agree on one clock."""
        return self.every_s is not None and time.monotonic() - self._last_s >= self.every_s

    def paths(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(p for p in self.folder.iterdir() if _NAME.fullmatch(p.name))

    def save(self, state: Mapping[str, Any], *, settings: Mapping[str, object]) -> Path:
        """Write ``state`` (with its ``step``) for the run of ``settings``; on rank 0 only, elsewhere nothing.

        Args:
            state: tensors and plain values; ``state["step"]`` names the file.
            settings: plain values that make the run what it is; compared on ``load``.
        Returns: the file's path.
        Raises: WriteError when the disk refuses.
        """
        path = self.folder / f"step-{int(state['step']):09d}.pt"
        self._last_s = time.monotonic()
        if rank() != 0:
            return path
        flat = _flat(settings)
        whole = {"format": _FORMAT, "digest": mapping_digest(flat), "settings": flat, **state}
        with replacing(path, durable=True) as partial, partial.open("wb") as stream:
            torch.save(whole, stream)
        for old in [p for p in self.paths() if p.name <= path.name][: -self.keep]:
            old.unlink(missing_ok=True)
        for leftover in self.folder.glob(".step-*.pt.*"):  # of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        return path

    def load(self, *, settings: Mapping[str, object]) -> dict[str, Any] | None:
        """The newest readable checkpoint, on the CPU; None when the folder holds none.

        Raises: UsageError when it belongs to a run with other settings, naming them; UnreelError when there are
        checkpoints and none can be read.
        """
        read: dict[Path, dict[str, Any]] = {}
        path = from_rank_0(lambda: self._newest(settings, read))
        return None if path is None else read.get(path) or self._read(path)

    def _newest(self, settings: Mapping[str, object], read: dict[Path, dict[str, Any]]) -> Path | None:
        """Which checkpoint to load; what it holds is put into ``read``."""
        paths = self.paths()
        for path in reversed(paths):
            try:
                state = read[path] = self._read(path)
            except Exception as error:  # torch raises what zip and pickle raise: no common type
                log.warning("%s cannot be read (%s); going back to the checkpoint before it", path, in_short(error))
                continue
            if state["digest"] != mapping_digest(_flat(settings)):
                changed = "; ".join(differences(state["settings"], settings))
                raise UsageError(
                    f"{self.folder} holds checkpoints of another run: {changed}. "
                    "Give this run another folder, or the old settings to continue"
                )
            return path
        if paths:
            raise UnreelError(
                f"{self.folder}: none of {len(paths)} checkpoints can be read; remove them to start again"
            )
        return None

    def _read(self, path: Path) -> dict[str, Any]:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise ValueError("not a checkpoint of this version")
        return state


def in_short(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
