"""Encoders and heads for other code and other people: the Python twin of ``unreel export``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

from unreel.core.errors import UsageError, unknown_name
from unreel.core.files import check_file, check_folder, write_whole
from unreel.nn.encoder import Encoder
from unreel.nn.export import DetectionSet, check_export, detectron2_settings, export_encoder
from unreel.protocols.head import Head
from unreel.protocols.portable import SUFFIXES, check_suffix, export_graph
from unreel.report.hub import write_hub_folder

Format: TypeAlias = Literal["onnx", "torch", "hub", "torchvision", "detectron2"]


class Exported(NamedTuple):
    """What ``export`` wrote: a file or folder, settings where they were asked for, and of which architecture.

    ``difference`` is the largest between the numbers of an exported graph and of its module, on ten clips.
    """

    file: Path
    settings: Path | None
    architecture: str
    difference: float | None = None


def check(
    format: Format, out: str | os.PathLike[str], *, has_head: bool = False, settings_for: DetectionSet | None = None
) -> tuple[Path, Path | None]:
    """What would be written: the file or folder, and the file of settings, if any.

    Raises: as ``unreel.export``, before any work.
    """
    if format not in get_args(Format):
        raise unknown_name("export format", format, get_args(Format))
    if settings_for is not None and format != "detectron2":
        raise UsageError("--settings-for goes with --format detectron2 (settings_for= and format= in Python)")
    if has_head and format not in SUFFIXES:
        raise UsageError(f"a head is written with its encoder, as {' or '.join(SUFFIXES)}; {format} takes none")
    if format == "hub":
        check_folder(out)
        return Path(out), None
    if format == "onnx" or format == "torch":
        target = check_suffix(format, out)
    else:
        target = check_export(format, out)
    settings = None if settings_for is None else target.with_suffix(".yaml")
    for file in filter(None, (target, settings)):
        check_file(file)
    return target, settings


def export(
    encoder: Encoder,
    *,
    format: Format,
    out: str | os.PathLike[str],
    head: Head | None = None,
    source: str | os.PathLike[str] | None = None,
    settings_for: DetectionSet | None = None,
    batch: int = 16,
) -> Exported:
    """Write an encoder, with its head where one is given. See ``unreel.export``.

    Args:
        encoder, format, out, head, settings_for, batch: as there.
        source: the run or file that the encoder is from; "hub" copies what was measured of it.
    """
    target, settings = check(format, out, has_head=head is not None, settings_for=settings_for)
    name = encoder.architecture or type(encoder).__name__
    if format == "hub":
        if source is None:
            raise UsageError("hub copies a saved encoder: give a run's folder, or an encoder file")
        return Exported(write_hub_folder(source, target), None, name)
    if format == "onnx" or format == "torch":
        return Exported(target, None, name, export_graph(encoder, target, format=format, head=head))
    export_encoder(encoder, target, format=format)
    if settings is not None and settings_for is not None:
        import yaml

        made = detectron2_settings(encoder, settings_for, batch=batch)
        write_whole(settings, yaml.safe_dump(made, sort_keys=False))
    return Exported(target, settings, name)
