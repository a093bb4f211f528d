"""A run that learned nothing, or forgot what it learned, says so in its log and on its page."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from unreel import api
from unreel.media import encode_image
from unreel.nn import create_encoder
from unreel.report.html import write_report

CALL = {"size": 16, "hidden_dim": 8, "out_dim": 8, "steps": 2, "batch_size": 4, "workers": 0, "device": "cpu"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 256, (20, 20, 3))
        (folder / f"{number}.png").write_bytes(encode_image(noise.astype(np.uint8)))
    return folder


@pytest.mark.parametrize("dead", [False, True])
def test_embeddings_that_are_all_alike(
    dead: bool, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    if dead:
        with torch.no_grad():
            for parameter in encoder.parameters():
                parameter.zero_()
    caplog.set_level(logging.WARNING, logger="unreel")
    run = api.pretrain("simclr", pictures, encoder=encoder, out=tmp_path / "run", lr=1e-9 if dead else 1e-3, **CALL)
    words = "the encoder has collapsed and tells nothing apart"
    assert (words in caplog.text) == dead
    assert (words in (tmp_path / "run" / "report.html").read_text()) == dead
    assert [words in note for note in run.notes] == [True] * dead


def test_an_accuracy_that_rose_and_fell(pictures: Path, tmp_path: Path) -> None:
    run = api.pretrain("moco", pictures, encoder="r3d_tiny", out=tmp_path / "run", queue_size=256, **CALL)
    values = [*np.linspace(0.01, 0.3, 12), *np.linspace(0.3, 0.019, 12), *[0.019] * 6]
    rows = [{"step": 10 * (i + 1), "loss": 5.0, "contrast_accuracy": float(v)} for i, v in enumerate(values)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(run.path).read_text()
    assert "contrast accuracy fell from 28 % near step 130 to 1.9 % (chance is 0.39 %)" in page
