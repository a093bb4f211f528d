"""Images are called images, and one of a thing is not several, in whatever a user reads."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.core.progress import Progress
from unreel.data.manifest import Manifest, Row
from unreel.media import encode_image
from unreel.report.html import write_report

TINY = [
    *("--method", "simclr", "--encoder", "r3d_tiny", "--size", "16", "--hidden-dim", "8", "--out-dim", "8"),
    *("--steps", "2", "--batch-size", "4", "--workers", "0"),
]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        target = folder / ("cat" if number % 2 else "dog") / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 120, (20, 20, 3)) + 100 * (number % 2)
        target.write_bytes(encode_image(noise.astype(np.uint8)))
    return folder


def test_a_run_on_images_speaks_of_images_from_the_plan_to_the_page(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    calls = {
        "index": ["data", "index", pictures],
        "plan": ["pretrain", pictures, *TINY, "--dry-run"],
        "run": ["pretrain", pictures, *TINY, "--out", run],
        "scores": ["evaluate", run, pictures, "--protocol", "knn", "retrieval"],
        "vectors": ["embed", run, pictures, "--out", tmp_path / "v.npz"],
        "too few": ["pretrain", pictures, *TINY, "--batch-size", "16", "--dry-run"],
        "held out": ["pretrain", pictures, *TINY, "--train.validation", "4", "--batch-size", "8", "--dry-run"],
    }
    said: dict[str, str] = {}
    for name, call in calls.items():
        code = main([str(a) for a in call])
        captured = capsys.readouterr()
        said[name] = captured.out + captured.err
        assert code == (1 if name == "too few" else 0), said[name]
    page = write_report(run).read_text().split("How to reproduce it")[0]  # settings and commands come after
    said["page"] = re.sub(r"<(style|svg).*?</\1>|data:image[^\"]*", "", page, flags=re.S)
    one = r"(?<![\d.,])1 (frames|images|views|epochs|classes|groups|workers|features)\b"
    for name, text in said.items():
        assert not re.search(r"\bvideos?\b", text, re.I), (name, text)
        assert not re.search(one, text), (name, text)
    assert "images    12\n" in said["plan"]
    assert "simclr: 2 views, 16² pixels" in said["plan"]
    assert ": 12 images × " in said["vectors"]
    assert "the data set has 12 images, fewer than" in said["too few"]
    assert "images    8 of 12 (the rest held out)" in said["held out"]
    for words in ("on 12 images for 2 steps", "<dt>Images</dt>", "test images, 2 classes", "Each row is an image"):
        assert words in said["page"], words


def test_what_a_row_is_called(tmp_path: Path) -> None:
    rows = {
        "i": Row("a.png"),
        "v": Row("b.mp4"),
        "f": Row("", frames=("a.png", "b.png")),
        "o": Row("", frames=("a.png",)),
    }

    def noun(names: str) -> str:
        return Manifest(str(tmp_path), tuple(rows[n] for n in names)).noun

    assert [noun(names) for names in ("i", "io", "v", "f", "vf", "iv", "if", "")] == [
        *("image", "image", "video", "video", "video", "file", "file", "video")
    ]


def test_a_bar_counts_one_as_one() -> None:
    for total, done, text in ((1, 0, "0/1 video"), (1, 1, "1/1 video"), (2, 1, "1/2 videos"), (None, 1, "1 video")):
        bar = Progress("index", total, unit="videos")
        bar.done = done
        assert bar.text().startswith(f"index: {text} ·") or bar.text() == f"index: {text}"
