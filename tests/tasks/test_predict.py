"""Prediction from a few labels: which file gets which label, its span, the head that is kept, and what is refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import unreel
from tests.contracts.test_task import blobs
from unreel.cli.main import main
from unreel.core.errors import DataError, UsageError
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest
from unreel.media import write_video
from unreel.nn import create_encoder
from unreel.protocols import KNN, FeatureProtocol, FeatureSet, LinearProbe, LinearSVM
from unreel.protocols.calibration import Held, fit_calibrated, fit_temperature
from unreel.protocols.head import HeadCard, Predictions, with_card
from unreel.tasks.classification import score_head
from unreel.tasks.predict import open_labels

COLOURS = {"red": (170, 90, 50), "blue": (50, 90, 170)}
QUIET: dict[str, Any] = {"device": "cpu", "progress": False, "workers": 0}


def film(path: Path, colours: list[str], seed: int) -> None:
    """One second of each colour, eight frames a second."""
    rng = np.random.default_rng(seed)
    frames = [np.array(COLOURS[c]) + rng.normal(0, 20, (20, 26, 3)) for c in colours for _ in range(8)]
    write_video(path, np.clip(np.stack(frames), 0, 255).astype(np.uint8), fps=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos in turn red and blue, one that is first red and then blue, and one that is none."""
    root = tmp_path_factory.mktemp("predict")
    (root / "films").mkdir()
    for i in range(12):
        film(root / "films" / f"{i:02d}.mp4", [("red", "blue")[i % 2]], i)
    film(root / "films" / "both.mp4", ["red", "red", "blue"], 50)
    (root / "films" / "broken.mp4").write_bytes(b"nothing")
    with (root / "few.csv").open("w") as stream:
        print(
            "clip,class,who",
            *(f"{i:02d}.mp4,{('red', 'blue')[i % 2]},{i // 2}" for i in range(8)),
            sep="\n",
            file=stream,
        )
    net = create_encoder("r3d_tiny", seed=1)
    net.input_spec = replace(net.input_spec, num_frames=4, stride_frames=1, size_px=16)
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text("")
    unreel.save_encoder(net, root / "run")
    return root


def test_a_few_labels_tell_the_others_and_the_head_that_is_kept_tells_the_same(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "all.csv", tmp_path / "again.csv"
    call = ["predict", str(folder / "run"), str(folder / "films"), "--device", "cpu", "--quiet"]
    assert main([*call, "--labels", str(folder / "few.csv"), "--label", "class", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    with out.open() as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert len(rows) == 13
    for i in range(12):
        row = rows[f"{i:02d}.mp4"]
        assert (row["label"], float(row["start_s"]), float(row["end_s"])) == (("red", "blue")[i % 2], 0, 1)
        assert 0.5 < float(row["probability"]) < 1
        assert row["abstained"] == "false"
    assert text.startswith("expected accuracy 1.00: ")
    assert "5 folds, over 8 files; a prediction interval for 6 other clips" in text
    assert "in all: " in text
    assert "left out: " in text
    assert "broken.mp4" in text
    head = folder / "run" / "heads" / "linear-class.safetensors"
    assert str(head) in text
    assert main([*call, "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    call[1] = str(head)
    assert main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [r["label"] for r in said["predictions"]] == [r["label"] for r in rows.values()]
    assert said["head"]["temperature"] > 0
    assert said["head"]["expected"]["low"] < 0.9 < said["head"]["expected"]["high"] == 1
    assert said["unreadable"][0]["path"] == "broken.mp4"


def test_windows_say_when(folder: Path, tmp_path: Path) -> None:
    both, out = [folder / "films" / "both.mp4"], tmp_path / "windows.parquet"
    options = {"labels": _table(folder, tmp_path), "protocol": "knn", "window": 1.0, "out": out, **QUIET}
    table = unreel.predict(folder / "run", both, **options)
    assert [(r.label, r.start_s, r.end_s) for r in table.rows] == [("red", 0, 1), ("red", 1, 2), ("blue", 2, 3)]
    assert pq.read_table(out).to_pylist() == [r._asdict() for r in table.rows]
    assert [(s.label, s.start_s, s.end_s) for s in table.spans] == [("red", 0, 2), ("blue", 2, 3)]
    (spans,) = table.write_spans(tmp_path / "spans.csv")
    assert spans.read_text().splitlines()[1].startswith("both.mp4,0.0,2.0,red,")


def test_spans_are_written_by_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, labels = str(folder / "films" / "both.mp4"), str(_table(folder, tmp_path))
    call = ["predict", str(folder / "run"), both, "--labels", labels, "--protocol", "svm", "--device", "cpu", "--quiet"]
    assert main([*call, "--window", "1", "--every", "0.5", "--spans", str(tmp_path / "s.eaf")]) == 0
    assert f"wrote {tmp_path / 's.eaf'}: 2 spans" in capsys.readouterr().out
    assert main([*call, "--spans", str(tmp_path / "s.eaf")]) == 2
    assert "--window 4" in capsys.readouterr().err
    assert main([*call, "--window", "1", "--spans", str(tmp_path / "s.txt")]) == 2


def test_any_column_may_be_the_label_or_the_group_and_a_test_split_is_left_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Manifest.open(folder / "films")
    found, name = open_labels(folder / "few.csv", data, columns=Columns(label="class", group="who"))
    assert (name, found.labels("class")[:2], found.groups("who")[:3]) == ("class", ["red", "blue"], ["0", "0", "1"])
    rows = "00.mp4,red,train\n01.mp4,blue,val\n02.mp4,red,test\n03.mp4,,train"
    (tmp_path / "split.csv").write_text(f"path,label,split\n{rows}\n")
    with caplog.at_level("INFO"):
        found, _ = open_labels(tmp_path / "split.csv", data)
    assert [row.path for row in found] == ["00.mp4", "01.mp4"]
    assert "split.csv: 1 labelled row of a test split left out" in caplog.text


def _table(folder: Path, place: Path, rows: str = "") -> Path:
    """The few labels by the names that the reader knows, with paths as seen from the table."""
    lines = [f"{folder}/films/{i:02d}.mp4,{('red', 'blue')[i % 2]}" for i in range(8)]
    (place / "labels.csv").write_text("path,label\n" + (rows or "\n".join(lines)) + "\n")
    return place / "labels.csv"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.mp4,red\nb.mp4,blue", r"labels.csv: 2 files that it names cannot be found below .*such as '00.mp4'"),
        ("00.mp4,red\n02.mp4,red", "all 2 labelled rows are 'red'; a head needs at least two classes"),
        ("00.mp4,\n01.mp4,", "no row has a label"),
        ("00.mp4,red\n00.mp4,red\n01.mp4,blue", "1 source is listed twice, such as 00.mp4"),
    ],
)
def test_labels_that_cannot_be_used_are_said(folder: Path, tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        unreel.predict(folder / "run", folder / "films", labels=_table(folder, tmp_path, rows), **QUIET)


def test_calls_that_contradict_themselves_are_refused(folder: Path, tmp_path: Path) -> None:
    films, file = folder / "films", folder / "run" / "encoder.safetensors"
    with pytest.raises(UsageError, match=r"\.csv, \.parquet, \.json"):
        unreel.predict(folder / "run", films, labels=folder / "few.csv", out=tmp_path / "x.txt", **QUIET)
    with pytest.raises(UsageError, match=r"few\.csv: unknown label 'clas'; did you mean 'class'"):
        unreel.predict(folder / "run", films, labels=folder / "few.csv", label="clas", **QUIET)
    with pytest.raises(DataError, match="--labels LABELS` fits one"):
        unreel.predict(file, films, **QUIET)
    with pytest.raises(UsageError, match="give labels too"):
        unreel.predict(folder / "run", films, head=tmp_path / "x.safetensors", **QUIET)
    with pytest.raises(UsageError, match="did you mean 'workers'"):
        unreel.predict(folder / "run", films, worker=2)
    with pytest.raises(UsageError, match="window"):
        unreel.predict(folder / "run", films, labels=_table(folder, tmp_path), window=0, **QUIET)


def test_a_head_belongs_to_its_encoder(folder: Path, tmp_path: Path) -> None:
    """Kept elsewhere it finds its encoder by the card; one of another encoder is refused."""
    place, films = tmp_path / "own.safetensors", [folder / "films" / "00.mp4"]
    file = folder / "run" / "encoder.safetensors"
    table = unreel.predict(file, films, labels=_table(folder, tmp_path), head=place, **QUIET)
    assert table.head_file == place
    assert unreel.predict(place, films, **QUIET).rows == table.rows
    head = unreel.load_head(place)
    assert head.card.encoder_file == str(file)
    with pytest.raises(UsageError, match="fitted on the encoder"):
        unreel.predict(head, films, encoder=create_encoder("r3d_tiny", seed=2), **QUIET)
    with pytest.raises(DataError, match="--encoder FILE"):
        unreel.predict(with_card(head, encoder_file="/nowhere"), films, **QUIET)


def test_labels_that_are_less_likely_than_asked_for_are_marked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["predict", str(folder / "run" / "encoder.safetensors"), str(folder / "films"), "--device", "cpu", "--quiet"]
    labels = _table(folder, tmp_path)
    plain = unreel.predict(folder / "run" / "encoder.safetensors", folder / "films", labels=labels, **QUIET)
    assert plain.head_file == tmp_path / "heads" / "linear-label.safetensors"  # of no run: beside the labels
    middle = float(np.mean(sorted(row.probability for row in plain.rows)[:2]))  # one is red and blue, the others sure
    assert main([*call[:1], str(plain.head_file), *call[2:], "--abstain-below", str(middle)]) == 0
    assert "abstained: 1 label," in capsys.readouterr().out
    again = unreel.predict(plain.head_file, folder / "films", abstain_below=middle, **QUIET)
    assert [row.path for row in again.rows if row.abstained] == ["both.mp4"]
    assert [row.label for row in again.rows] == [row.label for row in plain.rows]
    assert not any(row.abstained for row in plain.rows)
    with pytest.raises(UsageError, match="abstain_below"):
        unreel.predict(plain.head_file, folder / "films", abstain_below=1.5, **QUIET)


def test_a_fine_tuned_encoder_is_kept_with_its_head(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It predicts the same when it is loaded, is not the encoder it began as, and gives its own numbers as a graph."""
    out, again, head = tmp_path / "a.csv", tmp_path / "b.csv", tmp_path / "tuned.safetensors"
    start = (folder / "run" / "encoder.safetensors").read_bytes()
    call = ["predict", str(folder / "run"), str(folder / "films"), "--device", "cpu", "--quiet", "--out", str(out)]
    few = ["--labels", str(_table(folder, tmp_path)), "--protocol", "finetune", "--head", str(head)]
    assert main([*call, *few, "--finetune.epochs", "1"]) == 0
    assert "over 8 files" in capsys.readouterr().out
    assert main(["predict", str(head), str(folder / "films"), "--device", "cpu", "--quiet", "--out", str(again)]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert (folder / "run" / "encoder.safetensors").read_bytes() == start
    kept = unreel.load_head(head)
    assert kept.card.encoder_file == str(tmp_path / "tuned-encoder.safetensors")
    assert kept.card.temperature is not None
    tuned = unreel.load_encoder(kept.card.encoder_file)
    old = unreel.load_encoder(folder / "run").state_dict()
    assert any(not torch.equal(old[name], tensor) for name, tensor in tuned.state_dict().items())


def test_the_temperature_is_that_of_the_noise() -> None:
    """Labels drawn from softmax(logits / 3): the temperature found is 3, whatever the scale of the logits is."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (4000, 3))
    shares = np.exp(logits / 3) / np.exp(logits / 3).sum(1, keepdims=True)
    labels = np.array(["abc"[rng.choice(3, p=p)] for p in shares])
    card = HeadCard("any", classes=("a", "b", "c"))
    said = Predictions("classes", card, scores=logits)
    assert fit_temperature([Held(said, labels)]) == pytest.approx(3, rel=0.1)
    assert fit_temperature([Held(replace(said, scores=10 * logits), labels)]) == pytest.approx(30, rel=0.1)
    # In two parts, one of a head that never met the class c.
    two = Predictions("classes", replace(card, classes=("a", "b")), scores=logits[:2000, :2])
    parts = [Held(two, labels[:2000]), Held(replace(said, scores=logits[2000:]), labels[2000:])]
    assert fit_temperature(parts) == pytest.approx(3, rel=0.15)


def test_few_samples_that_are_all_right_do_not_make_a_head_certain() -> None:
    card = HeadCard("any", classes=("a", "b"))
    few = Predictions("classes", card, scores=np.array([[4.0, -4.0], [-4.0, 4.0]]))
    temperature = fit_temperature([Held(few, np.array(["a", "b"]))])
    sure = replace(few, card=replace(card, temperature=temperature))
    # Platt's target of two samples and two classes: 3 of 4.
    np.testing.assert_allclose(sure.calibrated().probabilities.max(1), 3 / 4, atol=1e-3)


@pytest.mark.parametrize("protocol", [LinearProbe(), KNN(), LinearSVM(c=1.0)])
def test_calibration_changes_probabilities_alone(protocol: FeatureProtocol) -> None:
    train, test = blobs(1, spread=3.0, prefix="train"), blobs(2, n=400, spread=3.0, prefix="test")
    plain, head = protocol.fit(train, seed=1), fit_calibrated(protocol, train, seed=1)
    np.testing.assert_array_equal(score_head(head, test).values["accuracy"], score_head(plain, test).values["accuracy"])
    said = head.predict(test.unlabelled).calibrated()
    np.testing.assert_array_equal(said.labels, plain.predict(test.unlabelled).labels)
    assert said.probabilities is not None
    # As sure as it is right, within what 80 samples can tell.
    assert said.probabilities.max(1).mean() == pytest.approx(score_head(head, test).score(), abs=0.12)


def test_too_few_samples_to_hold_any_out_are_said() -> None:
    head = fit_calibrated(KNN(k=1), FeatureSet(np.eye(2), np.array(["a", "b"])))
    assert head.card.temperature is None
    assert "not calibrated" in head.card.notes[-1]
