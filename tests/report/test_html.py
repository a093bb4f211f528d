"""The page: complete, self-contained, safe with any text, and useful when half of the run is missing."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.contracts.decoder_suite import numbered_frames
from unreel.core.errors import DataError
from unreel.media import write_video
from unreel.methods.registry import chance_levels
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder
from unreel.report import html, save_views, write_report
from unreel.report.pages import duration
from unreel.stats.intervals import Interval, PairedDifference
from unreel.tasks.scores import Confusion, Neighbour, QueryNeighbours, Report, Score
from unreel.train.run import open_run

CONFIG = """# unreel 0.1.0: the complete settings of a run, each with its origin.
# To run it again: unreel pretrain /data/my videos --recipe THIS-FILE --out NEW-RUN
data:
  split: auto
  digest: abc123
method:
  name: cvrl
  reduction: mean
  same_view_negatives: true
  gather: global
  grad_scale: 1.0
clips:
  clip_frames: 8
  interval: decreasing
  power: 1.0
views:
  size: 64
encoder:
  name: r3d_small
train:
  batch_size: 16
  seed: 0
"""
ORIGINS = {
    "data": {"split": "default", "digest": "call"},
    "method": {"name": "recipe cvrl_small", "reduction": "default", "grad_scale": "default"},
    "clips": {"clip_frames": "command line", "interval": "default", "power": "default"},
    "views": {"size": "default"},
    "encoder": {"name": "recipe cvrl_small"},
    "train": {"batch_size": "command line", "seed": "default"},
}


class _Page(HTMLParser):
    """Elements, links and text of a page; fails on tags that do not match."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        assert tag != "script"
        self.links += [str(values[k]) for k in ("href", "src", "xlink:href") if values.get(k)]
        if tag == "img":
            self.images.append(values)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(v) for k, v in attrs if k in ("href", "src", "xlink:href") and v]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data.strip())
        if "style" not in self.open:
            self.text += data


def _read(path: Path) -> _Page:
    return _Page(path.read_text(encoding="utf-8"))


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    run = tmp_path / "first run"
    run.mkdir()
    (run / "config.yaml").write_text(CONFIG)
    (run / "origins.json").write_text(json.dumps(ORIGINS))
    return run


@pytest.fixture
def whole(bare: Path, tmp_path: Path) -> Path:
    records = [
        {"step": s, "epoch": 0, "lr": 0.1, "loss": 3.4 / s, "contrast_accuracy": 0.4, "data_wait": 0.02,
         "clips_per_s": 100.0, "s_per_step": 0.5, "skipped": 0, "faults": 1}
        for s in range(10, 101, 10)
    ]  # fmt: skip
    (bare / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    fault = {"path": "a/<b>.mp4", "cause": "TruncatedError", "message": "a/<b>.mp4: cut & off", "substitute": "c.mp4"}
    (bare / "faults.jsonl").write_text(json.dumps({**fault, "step": 12, "at_step": 13}) + "\n")
    session = {
        "started": "2026-01-02T03:04:05+0000", "ended": "2026-01-02T03:05:05+0000", "steps": [0, 100],
        "python": "3.12.1", "packages": {"unreel": "0.1.0", "torch": "2.13.0"}, "system": "Linux",
        "cores": 2, "cuda": None,
    }  # fmt: skip
    (bare / "environment.json").write_text(json.dumps({"identity": {"steps": 100}, "sessions": [session]}))
    encoder = create_encoder("r3d_small", channels=(4, 4, 8, 8), stem_channels=4)
    card = {"pretraining": {"method": "CVRL", "data": {"source": "/data/my videos", "videos": 1234}}}
    save_encoder(encoder, bare / "encoder.safetensors", card)
    video = write_video(tmp_path / "v.mp4", numbered_frames(4), 25)
    difference = PairedDifference(0.3, 0.1, 0.5, 0.0004, 40, 40)
    scores = (
        Score("encoder", "linear", "accuracy", 0.6, 40, 40, 90, 0.125, Interval(0.45, 0.75, 0.95), primary=True,
              references={"random-init": 0.3}, differences={"random-init": difference}),
        Score("random-init", "linear", "accuracy", 0.3, 40, 40, 90, 0.125, Interval(0.2, 0.4, 0.95), primary=True),
    )  # fmt: skip
    report = Report(
        scores,
        {"name": "label", "classes": ["x", "<y>"], "n_train": 90, "n_test": 40},
        {},
        notes=("a <note>",),
        faults=({"path": "/z/lost.mp4", "cause": "UnreadableError", "message": "?"},),
        neighbours=(
            QueryNeighbours(
                "q", str(video), "x", (Neighbour("a", str(video), "x", 0.91), Neighbour("b", "gone.mp4", "<y>", 0.5))
            ),
        ),
        confusions=(Confusion("linear", ("x", "<y>"), ((17, 3), (5, 15))),),
    )
    report.to_json(bare / "scores.json")
    save_views(bare, [torch.rand(2, 3, 4, 16, 16), torch.rand(2, 3, 4, 16, 16)])
    return bare


def test_a_whole_run(whole: Path) -> None:
    path = write_report(whole)
    assert path == whole / "report.html"
    page = _read(path)
    assert page.headings == [
        "first run", "What the encoder is worth", "Nearest neighbours", "What it sees without labels",
        "How training went", "What the network saw", "Files that could not be read", "How to reproduce it",
    ]  # fmt: skip
    for part in (
        "Trained r3d_small with cvrl on 1,234 videos for 100 steps in 50 s.",
        "8 frames of 64 px",
        "better than random-init by 0.300",
        "+0.300 [+0.100, +0.500]",
        "< 0.001",
        "[0.450, 0.750]",
        "a <note>",
        "1 of the test and training videos could not be read; no n includes it: lost.mp4",
        "0.910",
        "no picture",
        "cut & off",
        "clips.clip_frames",
        "command line",
        "2.13.0",
        "unreel pretrain '/data/my videos' --recipe",
        "abc123",
        "2 January 2026",
        "chance 6.2 %",
        "chance 3.43",
        "x173",  # a row of the confusion matrix: 17 right, 3 wrong
    ):
        assert part in page.text, part
    assert "cuda" not in page.text
    assert page.text.count("a/<b>.mp4") == 1  # the message does not repeat the path
    assert not [p for p in whole.iterdir() if p.name.startswith(".")]
    _check_self_contained(path.read_text(encoding="utf-8"))


def _check_self_contained(text: str) -> None:
    """The page needs nothing else, on any screen; its marks are words and signs, not colours alone."""
    page = _Page(text)
    assert all(link.startswith(("#", "data:", "file:///")) for link in page.links)  # a thumbnail leads to its file
    assert "@import" not in text
    assert not re.search(r"url\((?!#|data:image/)", text)
    # Only names of XML vocabularies look like addresses.
    assert set(re.findall(r"https?://[^\"'\s<]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert all(image.get("alt") is not None for image in page.images)
    for image in page.images:
        assert base64.b64decode(str(image["src"]).split(",")[1])[:8] == b"\x89PNG\r\n\x1a\n"
    (moving,) = set(
        re.findall(r"data:image/webp;base64,([^)\"]+)", text)
    )  # of query and neighbour, one and the same file
    assert base64.b64decode(moving)[8:12] == b"WEBP"
    assert text.count(moving) == 1
    assert len(text) < 1_000_000
    assert text.count('aria-label="right">✓') == 1
    assert text.count('aria-label="wrong">✗') == 1
    assert '<li class="good">' in text


def test_a_run_that_has_only_begun(bare: Path) -> None:
    page = _read(write_report(bare))
    assert "Not scored yet" in page.text
    assert "No step has been recorded yet" in page.text
    assert "The run stopped at step 0" in page.text
    assert "unreel pretrain '/data/my videos' --recipe" in page.text
    assert "Nearest neighbours" not in page.headings


@pytest.mark.parametrize(
    "lost", ["metrics.jsonl", "environment.json", "encoder.safetensors", "scores.json", "views.png"]
)
def test_any_part_may_be_missing(whole: Path, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unreel.report.html.curves", lambda records, chance: [])  # slow to draw, and tested elsewhere
    (whole / lost).unlink()
    assert _read(write_report(whole)).headings[0] == "first run"


def test_damaged_parts_are_said(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unreel.report.html.curves", lambda records, chance: [])
    (whole / "scores.json").write_text('{"format": 99}')
    (whole / "encoder.safetensors").write_bytes(b"rotten")
    with (whole / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 110, "lo')  # killed while writing
    page = _read(write_report(whole))
    assert "format 99" in page.text
    assert "for 100 steps" in page.text  # the record cut off is none


def test_another_place(bare: Path, tmp_path: Path) -> None:
    out = write_report(bare, out=tmp_path / "deep" / "page.html")
    assert out.is_file()
    assert not (bare / "report.html").exists()


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.yaml"):
        write_report(tmp_path)


def test_settings_that_make_no_sense_do_not_stop_the_page(bare: Path) -> None:
    (bare / "config.yaml").write_text("method:\n  name: other\n  interval: sideways\n")
    page = _read(write_report(bare))
    assert "with other for 0 steps" in page.text
    assert "What the network saw" not in page.headings


@pytest.mark.parametrize(
    ("method", "chance"),
    [
        ("name: moco\n  queue_size: 99\n  mix: none", {"contrast_accuracy": 0.01, "loss": math.log(100)}),
        ("name: moco\n  queue_size: 99\n  mix: mixup", {"contrast_accuracy": 0.01}),  # soft targets, more columns
        ("name: simclr", {"contrast_accuracy": 1 / 16, "loss": math.log(31)}),
    ],
)
def test_chance_of_the_image_methods(bare: Path, method: str, chance: dict[str, float]) -> None:
    (bare / "config.yaml").write_text(f"method:\n  {method}\n  interval: uniform\n  rho: 4\ntrain:\n  batch_size: 16\n")
    page = html._Page(open_run(bare))
    assert chance_levels(page.config) == pytest.approx(chance)
    assert page.intervals is None  # of four clips no pair has this distribution


def test_facts_of_the_page(whole: Path) -> None:
    """The first record holds the start-up; what was chosen is told from defaults; paths are quoted for a shell."""
    rows = [{"step": s, "loss": 1.0, "data_wait": w} for s, w in ((10, 0.9), (20, 0.1), (30, 0.1), (40, 0.9))]
    (whole / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = html._Page(open_run(whole))
    assert page.typical("data_wait") == pytest.approx(0.1)
    assert page.typical("nothing") is None
    assert [(s.section, s.name) for s in page.chosen] == [
        *(("method", "name"), ("clips", "clip_frames"), ("encoder", "name"), ("train", "batch_size"))
    ]
    assert "Confusion matrices" in _read(write_report(whole)).text
    assert f"unreel report '{whole}' --data '/data/my videos'" in [command for _, command in page.commands]


def test_verdict_marks(whole: Path) -> None:
    report = Report.from_json(whole / "scores.json")
    cases: list[tuple[Any, str]] = [
        (PairedDifference(0.3, 0.1, 0.5, 0.001, 40, 40), "good"),
        (PairedDifference(0.0, -0.2, 0.2, 0.9, 40, 40), "open"),
        (PairedDifference(-0.3, -0.5, -0.1, 0.001, 40, 40), "bad"),
    ]
    for difference, mark in cases:
        main = report.scores[0]
        changed = Score(**{**vars(main), "differences": {"random-init": difference}})
        Report((changed, report.scores[1]), report.task, {}).to_json(whole / "scores.json")
        assert html._Page(open_run(whole)).answer[0] == mark
        row = _read(write_report(whole)).text.split("this encoder is")[1]
        assert {"good": "better", "open": "undecided", "bad": "worse"}[mark] in row[:200]


def test_a_score_below_chance_is_marked_and_said(whole: Path) -> None:
    report = Report.from_json(whole / "scores.json")
    low = replace(report.scores[0], value=0.333, interval=Interval(0.223, 0.454, 0.95), chance=0.5)
    replace(report, scores=(low, *report.scores[1:])).to_json(whole / "scores.json")
    page = _read(write_report(whole)).text
    assert "BELOW chance (0.500)" in page
    assert "0.500 (score below)" in page
    assert html._Page(open_run(whole)).answer[0] == "bad"


def test_every_evaluation_is_named_and_losses_come_first(whole: Path) -> None:
    """A loss against another encoder counts like one against a control; the first sentence counts them all."""
    report = Report.from_json(whole / "scores.json")
    (whole / "scores.json").unlink()
    lost = PairedDifference(-0.2, -0.3, -0.1, 0.001, 40, 40)
    beaten = replace(report.scores[0], differences={**report.scores[0].differences, "other": lost})
    for label, score in (("a won", report.scores[0]), ("b lost", beaten)):
        about = {"data": "/sets/lungs.csv", "label": label, "split": "own (train, test)"}
        replace(report, about=about, scores=(score, *report.scores[1:])).keep(whole)
    page = html._Page(open_run(whole))
    assert page.answer == ("bad", "Of 2 evaluations: below chance or worse than another net in 1, better in 1.")
    assert [found.name for found in page.evaluations] == ["sets/lungs.csv, label b lost", "sets/lungs.csv, label a won"]
    text = _read(write_report(whole)).text
    assert (
        text.index("Of 2 evaluations") < text.index("label b lost") < text.index("label a won") < text.index("Trained")
    )
    day = f"{datetime.now():%-d %B %Y}"
    assert f"label b lost · split: own (train, test); evaluated on {day}" in text


def test_durations() -> None:
    cases = {4: "4 s", 60: "1 min", 187: "3 min 7 s", 1500: "25 min", 3600: "1 h", 8109: "2 h 15 min"}
    cases |= {599: "9 min 59 s", 607: "10 min", 1507: "25 min", 59: "59 s", 3599: "59 min"}
    assert {s: duration(s) for s in cases} == cases


def test_views_are_kept_as_they_are_given(bare: Path) -> None:
    from unreel.media import read_clip
    from unreel.report.figures import contact_sheet

    clips = [torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)]
    np.testing.assert_array_equal(read_clip(save_views(bare, clips)).pixels[0], contact_sheet(clips))
