"""A folder that can be shared: weights, settings, and a model card with what was measured."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from unreel.core.errors import UsageError
from unreel.core.files import write_whole
from unreel.core.words import counted
from unreel.nn.count import count_parameters
from unreel.nn.weights import FILE_NAME, load_encoder, read_card, save_encoder
from unreel.report.pages import templates
from unreel.tasks.scores import Report, Score, kept_reports

CARD_FILE = "README.md"


def write_hub_folder(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write ``encoder.safetensors``, ``config.json`` and a model card, README.md, into a folder; returns the folder.

    ``unreel.load_encoder(folder)`` reads it again, bit for bit. The card has the scores that the run's folder keeps,
    with n, chance and interval. It names no path and no file of the data.

    Args:
        source: a run's folder, or an encoder file. folder: made if missing; a folder with other files is refused.
    Raises: UsageError for a folder that holds something else; DataError for a source that is no encoder.
    """
    place, target = Path(source), Path(folder)
    file = place / FILE_NAME if place.is_dir() else place
    card = read_card(file)
    if target.is_dir() and {entry.name for entry in target.iterdir()} - {FILE_NAME, "config.json", CARD_FILE}:
        raise UsageError(f"{target} holds other files; name a new folder")
    target.mkdir(parents=True, exist_ok=True)
    encoder = load_encoder(file)
    training = card.get("pretraining") or {}
    # Of the settings only these: paths, and what a recipe says of the data, stay where they are.
    save_encoder(encoder, target, card={name: training[name] for name in ("method", "steps") if name in training})
    write_whole(target / "config.json", json.dumps(read_card(target), indent=1) + "\n")
    data = training.get("data") or {}
    text = (
        templates()
        .overlay(autoescape=False)
        .get_template("model_card.jinja")
        .render(
            name=target.resolve().name,
            card=read_card(target),
            parameters=count_parameters(encoder, trainable_only=False),
            trained_on=counted(int(data["videos"]), str(data.get("noun", "video"))) if data.get("videos") else "",
            scores=list(_measured(place)) if place.is_dir() else [],
        )
    )
    write_whole(target / CARD_FILE, text)
    return target


def _measured(run: Path) -> Iterator[tuple[Report, Score]]:
    """The scores quoted first, of every evaluation that the run keeps."""
    for _, report in kept_reports(run):
        if isinstance(report, Report):
            yield from ((report, score) for score in report.scores if score.encoder == "encoder" and score.primary)
