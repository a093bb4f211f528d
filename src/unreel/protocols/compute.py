"""Where and with what a net computes: one value that every function with encoders in it takes, and hands on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from unreel.core.checks import Count, checked
from unreel.core.errors import unknown_name
from unreel.media import Decoder
from unreel.protocols.store import FeatureStore

Precision: TypeAlias = Literal["float32", "bfloat16"]
ProgressLike: TypeAlias = bool | Callable[[int, int], None]


@checked
@dataclass(frozen=True)
class Compute:
    """The options that ``unreel.embed``, ``search`` and ``evaluate`` share.

    Args:
        device: where to compute; ``None``: the best there is, or where the encoder is when that is no CPU. It is put
            back afterwards.
        workers: decoding processes; ``None``: up to 8 beside a GPU, else a quarter of the cores (none below
            four, and where processes are not forked).
        batch_size: clips per forward pass; ``None``: by their size.
        store: a feature store or its folder: what is there is read, what is computed is added.
        precision: ``float32``, or ``bfloat16`` by autocast.
        decoder: reads every file; ``None`` chooses by kind.
        progress: show a bar; or a function of (done, total).
        work: where protocols that train keep checkpoints and metrics, so that the same call goes on where one was
            interrupted; ``None`` keeps nothing.
    Raises: UsageError for a value out of range.
    """

    device: torch.device | str | None = None
    workers: int | None = None
    batch_size: Count | None = None
    store: FeatureStore | str | os.PathLike[str] | None = None
    precision: Precision = "float32"
    decoder: Decoder | None = None
    progress: ProgressLike = True
    work: str | os.PathLike[str] | None = None

    @property
    def features(self) -> FeatureStore | None:
        """The feature store."""
        return self.store if isinstance(self.store, FeatureStore) or self.store is None else FeatureStore(self.store)

    @property
    def folder(self) -> Path | None:
        """``work`` as a path."""
        return None if self.work is None else Path(self.work)


USUAL = Compute()


def sorted_options(options: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """One value of each data class from keywords: what a public function gets as ``**options``.

    Raises: UsageError for a keyword that none of them has, with the nearest one.
    """
    names = [{f.name for f in fields(kind)} for kind in kinds]
    for name in options:
        if not any(name in own for own in names):
            raise unknown_name("option", name, set().union(*names))
    return [
        kind(**{name: value for name, value in options.items() if name in own})
        for kind, own in zip(kinds, names, strict=True)
    ]
