"""What a user is told when labels are answered the wrong way round."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.media import encode_image
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder

RED, BLUE = (200, 30, 30), (30, 30, 200)


def pictures(folder: Path, *, swapped: bool) -> Path:
    """Red and blue noise in a training and a test part; ``swapped`` names the classes the other way in the test."""
    rows = []
    for number in range(48):
        split, colour = ("train", "test")[number % 2], (RED, BLUE)[number // 2 % 2]
        noise = np.random.default_rng(number).integers(-25, 26, (16, 16, 3))
        name = f"{number}.png"
        (folder / name).write_bytes(encode_image((np.array(colour) + noise).clip(0, 255).astype(np.uint8)))
        label = ("red", "blue")[(colour == BLUE) != (swapped and split == "test")]
        rows.append((name, split, label, f"scene{number}"))
    with (folder / "m.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "split", "label", "group"), *rows])
    return folder / "m.csv"


@pytest.mark.parametrize("swapped", [False, True])
def test_below_chance_is_said_on_screen_and_in_json(
    swapped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = create_encoder("r3d_tiny", seed=0)
    net.input_spec = replace(net.input_spec, num_frames=1, stride_frames=1, size_px=16)
    encoder = save_encoder(net, tmp_path / "e.safetensors")
    call = ["evaluate", str(encoder), str(pictures(tmp_path, swapped=swapped)), "--protocol", "knn", "--quiet"]
    assert main([*call, "--out", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    score = next(s for s in json.loads((tmp_path / "s.json").read_text())["scores"] if s["encoder"] == "encoder")
    assert score["value"] == (0.0 if swapped else 1.0)
    assert score["versus_chance"] == ("below" if swapped else "above")
    assert ("BELOW chance (0.500): something answers the wrong way round" in out) == swapped
    assert ("swapped labels" in out) == swapped
    assert ("above chance" in out) != swapped
    assert "not distinguishable" not in out
