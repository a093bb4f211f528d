"""``unreel search``, ``cluster``, ``duplicates`` and ``outliers``: what a person types, reads and opens."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import unreel
from unreel.cli.main import main
from unreel.nn import create_encoder, save_encoder

HOSTILE = '"><img src=x onerror=alert(1)>.mp4'


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(create_encoder("r3d_tiny", seed=1), tmp_path_factory.mktemp("net") / "e.safetensors")


@pytest.fixture(scope="module")
def folder(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos; two are the same, one with a name that would do harm on a page."""
    root = tmp_path_factory.mktemp("folder")
    files = sorted(tiny_world.rglob("*.mp4"))
    for i in range(7):
        shutil.copy(files[i], root / f"{i}.mp4")
    shutil.copy(files[0], root / HOSTILE)
    return root


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--workers", "0", "--json", "--quiet"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [Path(row["path"]).name for row in rows]


def test_a_search_by_several_examples(
    capsys: pytest.CaptureFixture[str], encoder: Path, folder: Path, tmp_path: Path
) -> None:
    found = call(capsys, "search", encoder, folder, folder / "0.mp4", "1.mp4", "--not", "2.mp4", "3.mp4", "--top", 9)
    assert found["query"] == [str(folder / "0.mp4"), "1.mp4"]
    assert sorted(names(found["results"])) == sorted([HOSTILE, "4.mp4", "5.mp4", "6.mp4"])
    assert found["results"] == [
        {"rank": i, "similarity": pytest.approx(h.similarity, abs=1e-4), "path": h.path}
        for i, h in enumerate(
            unreel.search(encoder, folder, ["0.mp4", "1.mp4"], ["2.mp4", "3.mp4"], top=9, workers=0, progress=False), 1
        )
    ]
    # A window of a file is an example of its own; the whole file is not left out.
    window = call(capsys, "search", encoder, folder, "0.mp4#0-0.5", "--top", 9, "--out", tmp_path / "s.csv")
    assert len(window["results"]) == 8
    rows = list(csv.DictReader((tmp_path / "s.csv").open(encoding="utf-8")))
    assert names(rows) == names(window["results"])
    assert {Path(row["path"]).name for row in rows[:2]} == {"0.mp4", HOSTILE}
    windows = call(capsys, "search", encoder, folder, "0.mp4#0-0.5", "--window", 0.5, "--top", 1)
    assert names(windows["results"]) == [HOSTILE]
    assert windows["results"][0]["span_s"] == [0, 0.5]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "0.mp4#2-1"], 2, "0.mp4#2-1: the seconds end before they start"),
        (["search", "0.mp4#90-99"], 1, "its span 90–99 s holds no frame"),
        (["search", "gone.mp4#1-2"], 1, "gone.mp4#1-2: there is no such file"),
        (["search"], 2, "needs QUERY: One or more videos or images"),
        (["search", "0.mp4", "--out", "found.txt"], 2, "found.txt: results are written as a page (.html) or a table"),
        (["cluster", "--clusters", "many"], 2, "--clusters many: expected a number, or auto"),
        (["cluster", "--clusters", "9"], 2, "there are 8 files, fewer than 9"),
        (["duplicates", "--above", "1.2"], 2, "above must be"),
        (["outliers", "--top", "0"], 2, "top must be ≥ 1"),
    ],
)
def test_calls_that_cannot_be(
    capsys: pytest.CaptureFixture[str], encoder: Path, folder: Path, arguments: list[str], code: int, message: str
) -> None:
    assert main([arguments[0], str(encoder), str(folder), *arguments[1:], "--quiet"]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [["search", "0.mp4"], ["cluster", "--clusters", "2"], ["duplicates"], ["outliers"]])
def test_each_has_a_page_and_a_table_that_hostile_names_do_not_harm(
    capsys: pytest.CaptureFixture[str], encoder: Path, folder: Path, tmp_path: Path, command: list[str]
) -> None:
    asked = [command[0], str(encoder), str(folder), *command[1:], "--workers", "0"]
    for suffix in ("html", "csv"):
        assert main([*asked, "--out", str(tmp_path / f"found.{suffix}")]) == 0
        assert f"wrote {tmp_path / f'found.{suffix}'}" in capsys.readouterr().out
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert page.count('class="strip') >= 2
    assert "data:image/webp" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert HOSTILE in names(list(csv.DictReader((tmp_path / "found.csv").open(encoding="utf-8"))))


def test_python_and_the_command_line_say_the_same(
    capsys: pytest.CaptureFixture[str], encoder: Path, folder: Path
) -> None:
    table = unreel.embed(encoder, folder, workers=0, progress=False)
    for name, given in (("cluster", {"clusters": 3}), ("duplicates", {}), ("outliers", {"top": 4})):
        found = getattr(unreel, name)(encoder, table, workers=0, progress=False, **given)
        typed = [f"--{key}={value}" for key, value in given.items()]
        said = call(capsys, name, encoder, folder, *typed)
        assert said == {**found.to_plain(), "written": None}
    assert names(call(capsys, "duplicates", encoder, folder)["rows"]) == [HOSTILE, "0.mp4"]
