"""Names that no keyboard makes, and terminals that cannot show them: nothing fails, and two names stay two."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from unreel.cli.main import main
from unreel.core.text import ON_TERMINALS, is_utf8, one_line, shown
from unreel.data.manifest import Manifest, Row
from unreel.media import encode_image
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder

ODD = [
    *(b"caf\xe9", b"caf\xea", "café".encode(), "e\u0301".encode(), b"two\nlines", b"q\"uo'te", "\U0001f600".encode()),
    *(
        "a\u202eb".encode(),
        b"-dash",
        b"  ",
        b"x" * 247,
        b"tab\there",
        b"a;b,c",
        b"%03d",
        b"#1",
        b"a\\b",
        b"NA",
        b"\xff",
    ),
]
CLASSES = [b"H\xe4nde", "Öffnen".encode()]
LABELS = ["H\\xe4nde", "Öffnen"]
PLACES = [os.path.join(CLASSES[0], n + b".png") for n in ODD] + [os.path.join(CLASSES[1], n + b".png") for n in ODD[:4]]
COUNT = len(PLACES)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "data"
    for number, place in enumerate(PLACES):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
        path = os.path.join(os.fsencode(folder), place)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            Path(os.fsdecode(path)).write_bytes(encode_image(pixels))
        except OSError:
            pytest.skip("this file system refuses names that are not UTF-8")
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    net = create_encoder("resnet_18", width=4, seed=0)
    return save_encoder(net, tmp_path_factory.mktemp("net") / "e.safetensors")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    code = main([*map(str, arguments), "--json", "--quiet"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_tables_keep_every_byte(odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = call(capsys, "data", "index", odd, "--out", tmp_path / "m.csv")
    assert (found["readable"], found["labels"]) == (COUNT, {"label": 2})
    call(capsys, "data", "index", tmp_path / "m.csv", "--out", tmp_path / "m.parquet")
    folder, table, columns = (Manifest.open(p) for p in (odd, tmp_path / "m.csv", tmp_path / "m.parquet"))
    places = {os.fsencode(folder.absolute(i)) for i in range(len(folder))}
    assert places == {os.path.join(os.fsencode(odd), place) for place in PLACES}
    for other in (table, columns):
        assert {os.fsencode(os.path.realpath(other.absolute(i))) for i in range(len(other))} == {
            os.fsencode(os.path.realpath(os.fsdecode(place))) for place in places
        }
        assert sorted(set(other.labels())) == LABELS
    assert table.digest == columns.digest


def test_vectors_and_search(odd: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("v.npz", "v.parquet"):
        assert call(capsys, "embed", encoder, odd, "--out", tmp_path / name)["videos"] == COUNT
    with np.load(tmp_path / "v.npz") as arrays:
        ids, labels = arrays["ids"].tolist(), arrays["labels"].tolist()
    rows = pq.read_table(tmp_path / "v.parquet")
    assert (rows["id"].to_pylist(), rows["label"].to_pylist()) == (ids, labels)
    assert len({*ids}) == len(ids)
    assert all(map(is_utf8, ids))
    assert "H\\xe4nde/caf\\xe9.png" in ids
    query = os.fsdecode(os.path.join(os.fsencode(odd), CLASSES[0], ODD[0] + b".png"))
    hits = call(capsys, "search", encoder, odd, query, "--top", 40)["results"]
    assert isinstance(hits, list)
    assert query not in [hit["path"] for hit in hits]
    assert len(hits) == COUNT - 1
    assert main(["search", str(encoder), str(odd), query, "--top", "40"]) == 0
    out = capsys.readouterr().out
    assert "caf\\xea.png" in out
    assert len(out.splitlines()) == COUNT  # a header and a line per hit, whatever a name holds
    assert "\x1b" not in out


def test_training_and_maps(odd: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Path(os.fsdecode(os.path.join(os.fsencode(odd), b"broken\xe9.png")))
    broken.write_bytes(b"no picture")
    try:
        arguments = [
            *("--out", tmp_path / "run", "--encoder.name", "resnet_18", "--encoder.width", 4, "--size", 32),
            *("--train.steps", 10, "--train.warmup_steps", 0, "--train.batch_size", 8, "--train.workers", 0),
            *("--train.device", "cpu", "--train.max_fault_share", 0.9),
        ]
        assert call(capsys, "pretrain", odd, *arguments)["unreadable"] == [broken.name]
        faults = (tmp_path / "run" / "faults.jsonl").read_text(encoding="utf-8").splitlines()
        assert {json.loads(line)["path"] for line in faults} == {broken.name}
        assert "broken\\xe9.png" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    finally:
        broken.unlink()
    table = Manifest.open(odd).to_csv(tmp_path / "lists" / "deep" / "m.csv")  # paths with .. in them
    maps = call(
        capsys, "explain", encoder, table, "--out", tmp_path / "looks", "--iterations", 1, "--boxes", "--workers", 0
    )
    assert maps["images"] == COUNT
    pictures = sorted((tmp_path / "looks" / "overlays").rglob("*.jpg"))
    assert len(pictures) == COUNT
    assert {p.name for p in tmp_path.iterdir()} <= {"cache", "lists", "looks", "run"}
    masks = ("data", "annotate", "masks", odd, "--encoder", encoder, "--workers", 0, "--cam.expand_resolution", 4)
    assert call(capsys, *masks)["computed"] == COUNT
    assert call(capsys, *masks)["known"] == COUNT


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_terminal_that_cannot_show_it(
    odd: Path, encoding: str, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = main([*arguments, *flags])
            out.flush()
            err.flush()
        texts = [stream.buffer.getvalue().decode(encoding) for stream in (out, err)]  # type: ignore[attr-defined]
        return code, texts[0], texts[1]

    code, text, _ = run("data", "index", str(odd))
    assert code == 0
    if flags:
        assert json.loads(text)["readable"] == COUNT
    missing = str(odd / "手\udce9.csv")
    code, text, error = run("data", "index", missing)
    assert code == 1
    assert "\\xe9.csv" in error
    assert ("手" in error) == (encoding == "utf-8")
    if flags:
        assert missing in json.loads(text)["error"]["message"]
    assert run("models", "r3d_18")[0] == 0
    assert run("pretrain", "--help")[0] == 0


def test_signs_that_stand_in() -> None:
    assert "56² px → 4 × 2 …".encode("ascii", ON_TERMINALS) == b"56^2 px -> 4 x 2 ..."
    assert "é手\udce9".encode("ascii", ON_TERMINALS) == b"\\xe9\\u624b\\xe9"
    assert (shown("a\udce9b"), shown("é"), one_line("é\n\udce9")) == ("a\\xe9b", "é", "é\\n\\xe9")


def test_accents_are_one_class_and_a_hint(tmp_path: Path) -> None:
    composed, apart = "Öffnen", "O\u0308ffnen"
    assert Row("a", labels={"label": apart}, groups={"group": apart}, split=apart) == Row(
        "a", labels={"label": composed}, groups={"group": composed}, split=composed
    )
    assert Row(apart).path == apart  # a file's name stays what it is


@pytest.mark.parametrize(
    ("written", "there", "hint"),
    [
        ("O\u0308.png", "Ö.png", "accents"),
        ("a\\b.png", "a/b.png", "backslashes"),
        (" c.png", "c.png", "spaces around"),
    ],
)
def test_names_that_nearly_exist(
    tmp_path: Path, written: str, there: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).write_bytes(b"")
    if (tmp_path / written).exists():
        pytest.skip("this file system takes both names for one")
    (tmp_path / "t.csv").write_text(f"path\n{written}\n", encoding="utf-8")
    assert main(["data", "index", str(tmp_path / "t.csv")]) == 1
    error = capsys.readouterr().err
    assert "first in t.csv:2" in error
    assert hint in error
