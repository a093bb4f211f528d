"""What is proposed to be labelled: different things, first those that stand for many; and labels that are kept."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import unreel
from unreel.cli.main import main
from unreel.core.errors import UsageError
from unreel.data.manifest import Manifest
from unreel.nn import create_encoder
from unreel.protocols import FeatureSet, LinearProbe
from unreel.tasks.suggest import most_telling

ON_CPU = ("--device", "cpu", "--workers", "0", "--quiet")


def _heaps(seed: int, sizes: tuple[int, ...] = (80, 40, 12, 8, 6, 4)) -> tuple[Any, Any]:
    """Classes of very different sizes, each in two heaps, and every fifth file there twice."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(0, 1, (len(sizes), 2, 16))
    kind = np.repeat(np.arange(len(sizes)), sizes)
    vectors = middle[kind, rng.integers(0, 2, len(kind))] + rng.normal(0, 0.45, (len(kind), 16))
    return np.concatenate([vectors, vectors[::5] + 1e-3]), np.concatenate([kind, kind[::5]])


def test_twenty_that_are_proposed_teach_at_least_as_much_as_twenty_at_random() -> None:
    chosen, random = [], []
    for seed in range(8):
        (vectors, kind), rng = _heaps(seed), np.random.default_rng(100 + seed)
        test, truth = vectors[1::2], kind[1::2]
        pool, names = vectors[::2], kind[::2]

        def worth(rows: Any, pool: Any = pool, names: Any = names, test: Any = test, truth: Any = truth) -> float:
            head = LinearProbe(c=1.0).fit(FeatureSet(pool[rows], names[rows].astype(str)))
            right = head.predict(test).labels == truth.astype(str)
            return float(np.mean([right[truth == k].mean() for k in np.unique(truth)]))

        first = most_telling(pool, [], 10)
        unsure = LinearProbe(c=1.0).fit(FeatureSet(pool[first], names[first].astype(str))).predict(pool).probabilities
        assert unsure is not None
        rows = [*first, *most_telling(pool, first, 10, unsure=1 - unsure.max(1))]
        assert len(set(rows)) == 20
        chosen.append(worth(rows))
        random.append(np.mean([worth(rng.choice(len(pool), 20, replace=False)) for _ in range(3)]))
    assert np.mean(chosen) > np.mean(random) + 0.02


def test_near_duplicates_are_never_proposed_twice() -> None:
    vectors, _ = _heaps(1)
    twins = {150 + i: 5 * i for i in range(30)}
    found = most_telling(vectors, [155, 3], 200)
    taken = [twins.get(row, row) for row in (*found, 155, 3)]
    assert len(set(taken)) == len(taken)
    assert len(found) == 148  # all others, once
    assert most_telling(np.repeat(vectors[:4], 6, axis=0), [], 10)[4:] == []


def test_what_the_head_is_unsure_of_comes_first() -> None:
    vectors = np.array([[3, 0.2], [3, -0.2], [-3, 0.2], [-3, -0.2], [0, 3], [0, 2.5]], float)
    assert most_telling(vectors, [0], 1, unsure=np.array([0, 0, 1, 1, 0, 0.0]))[0] in (2, 3)
    assert most_telling(vectors, [0], 1, unsure=np.array([0, 0, 0, 0, 1, 1.0]))[0] in (4, 5)


@pytest.fixture(scope="module")
def place(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    home = tmp_path_factory.mktemp("suggest")
    (home / "films").mkdir()
    manifest = Manifest.open(tiny_world)
    for i in range(8):
        shutil.copy(manifest.absolute(i), home / "films" / f"{i}.mp4")
    shutil.copy(home / "films" / "0.mp4", home / "films" / "0 again.mp4")
    return home, unreel.save_encoder(create_encoder("r3d_tiny", seed=1), home / "net.safetensors")


def test_labels_that_are_typed_are_kept_and_not_asked_for_again(
    place: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, net = place
    file, typed = tmp_path / "labels.csv", iter(["a", "", ' b, "c" '])

    def answer(prompt: str) -> str:
        asked.append(prompt.removesuffix(": "))
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    asked: list[str] = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answer)
    call = [
        "label",
        str(net),
        str(home / "films"),
        "--labels",
        str(file),
        "--device",
        "cpu",
        "--quiet",
        "--workers",
        "0",
    ]
    assert main([*call, "--count", "5"]) == 0
    assert len(asked) == 4
    with file.open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [["path", "label"], [asked[0], "a"], [asked[2], 'b, "c"']]
    before, asked[:] = list(asked), []
    assert main([*call, "--count", "9"]) == 0
    assert {before[0], before[2]}.isdisjoint(asked)
    assert not {"0.mp4", "0 again.mp4"} <= {*asked, *before}
    capsys.readouterr()


def test_the_page_plays_what_is_proposed(
    place: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, net = place
    page = tmp_path / "next.html"
    call = [
        "label",
        str(net),
        str(home / "films"),
        "--labels",
        str(tmp_path / "none.csv"),
        "--device",
        "cpu",
        "--quiet",
    ]
    assert main([*call, "--workers", "0", "--count", "3", "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    found = unreel.suggest(net, home / "films", count=3, device="cpu", workers=0, progress=False)
    assert re.findall(r'data-path="([^"]*)"', text) == [p.path for p in found]
    assert text.count("data:image/webp") == 3
    assert "http" not in re.sub(r'href="file:[^"]*"', "", text)
    assert str(page) in capsys.readouterr().out
    assert not (tmp_path / "none.csv").exists()


def test_calls_that_cannot_be_are_refused(place: tuple[Path, Path], tmp_path: Path) -> None:
    home, net = place
    assert main(["label", str(net), str(home / "films"), "--out", str(tmp_path / "a.txt")]) == 2
    with pytest.raises(UsageError, match="count"):
        most_telling(np.eye(3), [], 0)
