"""A run that goes on from its own weights with another schedule, on the data as they are now.

What the run was before is kept in its folder, as ``earlier/001`` and so on: settings, metrics, encoder, report, and the
last checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from unreel.core.errors import DataError
from unreel.core.text import first_few
from unreel.data.record import FILE_NAME as RECORD_FILE
from unreel.methods.method import Method
from unreel.nn.weights import FILE_NAME as ENCODER_FILE
from unreel.nn.weights import read_state
from unreel.train.checkpoint import Checkpoints

FOLDER = "earlier"
_CHECKPOINT = "checkpoint.pt"
# What is of the run as it was, and must not be taken for that of the run as it goes on.
_REPLACED = ("metrics.jsonl", "faults.jsonl", RECORD_FILE, ENCODER_FILE, "report.html", "overview.json", "views.png")
_COPIED = ("config.yaml", "origins.json", "environment.json")
_SHOWN = 4

log = logging.getLogger(__name__)


def _kept(run: Path) -> list[Path]:
    folder = run / FOLDER
    return sorted(part for part in folder.iterdir() if part.name.isdigit()) if folder.is_dir() else []


def put_aside(run: Path) -> Path:
    """Keep what a run is now in ``earlier``, and make room for what it becomes; returns the folder that was written.

    A process that is killed here leaves the old run or the new folder whole; called again, it goes on.
    """
    kept = _kept(run)
    environment = (run / "environment.json").read_bytes()
    if kept and (kept[-1] / "environment.json").read_bytes() == environment:
        target = kept[-1]  # one that was killed came as far as this
    else:
        target = run / FOLDER / f"{len(kept) + 1:03d}"
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in (*_COPIED, *_REPLACED):
            if (run / name).is_file():
                shutil.copy2(run / name, partial / name)
        for newest in Checkpoints(run / "checkpoints").paths()[-1:]:
            shutil.copy2(newest, partial / _CHECKPOINT)
        partial.rename(target)
    for name in _REPLACED:
        (run / name).unlink(missing_ok=True)
    for checkpoint in Checkpoints(run / "checkpoints").paths():
        checkpoint.unlink()
    return target


def load_earlier(run: Path, method: Method) -> None:
    """Give a method the weights that the run had when it was put aside; nothing for a run that never was.

    Parts whose size depends on the data and that has changed (a memory of every video) start anew, and are named.
    Raises: DataError where there are no weights to go on from.
    """
    kept = _kept(run)
    if not kept:
        return
    if (kept[-1] / _CHECKPOINT).is_file():
        state: dict[str, Any] = torch.load(kept[-1] / _CHECKPOINT, map_location="cpu", weights_only=True)["method"]
    elif (kept[-1] / ENCODER_FILE).is_file():
        state = {f"encoder.{name}": tensor for name, tensor in read_state(kept[-1] / ENCODER_FILE).items()}
    else:
        raise DataError(f"{kept[-1]} has neither a checkpoint nor an encoder to go on from")
    own = method.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and getattr(own[name], "shape", None) == getattr(value, "shape", None)
    }
    method.load_state_dict(fitting, strict=False)
    anew = sorted(own.keys() - fitting.keys())
    if anew:
        log.info("%s: starts anew, as it depends on the data: %s", run, first_few(anew, _SHOWN))
