"""The demo: the whole path in seconds, what it prints, and the rule that judges its report seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.scripts import script

from unreel.cli import main as entry
from unreel.cli.demo import CLASS_SETS, PROTOCOLS, SIZES, as_text
from unreel.recipes import list_recipes


@pytest.mark.slow
def test_tiny_demo_walks_the_whole_path_and_goes_on_where_it_was(tmp_path, capsys):
    assert entry(["demo", "--tiny", "--json", "--quiet", "--out", str(tmp_path)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [(r["classes"], r["protocol"]) for r in data["scores"]] == [(c, p) for c in CLASS_SETS for p in PROTOCOLS]
    for row in data["scores"]:
        assert row["n"] == SIZES["tiny"].num_test
        assert 0.05 < row["chance"] < 0.2
        low, high = row["difference_interval"]
        assert low <= row["difference"] <= high
        assert row["difference"] == pytest.approx(row["pretrained"] - row["random_init"])
        assert row["learned"] == pytest.approx(row["pretrained"] - row["first_weights"])
    assert set(data["seconds"]) == {"world", "pretrain", "evaluate", "report"}
    page = Path(data["report"]).read_text(encoding="utf-8")
    for label in CLASS_SETS:
        assert f"world/manifest.csv, label {label}" in page.partition("<h2")[0]  # a sentence of each on top
    written = (tmp_path / "world" / "train" / "00000.mp4").stat().st_mtime_ns
    assert entry(["demo", "--tiny", "--quiet", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "random init" in text
    assert str(tmp_path) in text
    assert (tmp_path / "world" / "train" / "00000.mp4").stat().st_mtime_ns == written
    again = json.loads((tmp_path / "demo.json").read_text())
    assert again["scores"] == data["scores"]


def test_every_size_has_its_recipe_and_enough_test_videos():
    for name, size in SIZES.items():
        assert size.recipe in list_recipes()
        assert name == "tiny" or size.num_test >= 400


def _run(seed: int, lows: dict[tuple[str, str], float]) -> dict[str, object]:
    rows = [
        {"classes": c, "protocol": p, "difference_interval": [lows.get((c, p), -0.1), 0.3]}
        for c in CLASS_SETS
        for p in PROTOCOLS
    ]
    return {"seed": seed, "scores": rows}


def test_report_seeds_are_judged_by_two_of_three_on_one_protocol():
    passed = script("demo_seeds").passed
    once = _run(1, {("motion", "knn"): 0.01})
    other = _run(2, {("motion", "linear"): 0.01})
    nothing = _run(3, {("motion", "knn"): 0.0})
    assert passed("standard", [once, once, nothing])
    assert not passed("standard", [once, other, nothing])  # one seed each on two protocols is not two on one
    assert not passed("full", [once, once, once])  # the other class set is missing
    both = _run(4, {("motion", "knn"): 0.01, ("appearance", "linear"): 0.02})
    assert passed("full", [both, once, both])
    assert not passed("full", [both, once, once])


def test_a_score_below_chance_or_below_the_control_is_warned_of():
    row = {"classes": "motion", "protocol": "knn", "metric": "accuracy", "n": 64, "chance": 0.1, "random_init": 0.2}
    row |= {"random_init_interval": None, "pretrained": 0.1, "pretrained_interval": [0.0, 0.2], "difference": -0.1}
    row |= {"difference_interval": [-0.2, -0.05], "first_weights": 0.3, "first_weights_interval": None, "learned": -0.2}
    data = {"scores": [row | {"learned_interval": [-0.3, 0.1]}], "seconds": {}, "total_s": 1.0, "report": "page"}
    assert "warning: motion: knn is WORSE" in as_text(data | {"warnings": ["motion: knn is WORSE than random-init"]})
    assert "warning" not in as_text(data | {"warnings": []})
    assert "-20.0 [-30.0, +10.0]" in as_text(data | {"warnings": []})
