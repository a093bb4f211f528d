"""A map, clusters, neighbours and near-duplicates of files without labels, kept with the run and shown again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unreel import api
from unreel.core.errors import DataError
from unreel.core.keys import Key
from unreel.data.manifest import Manifest
from unreel.media import encode_image
from unreel.nn import create_encoder
from unreel.nn.weights import save_encoder
from unreel.protocols.compute import Compute
from unreel.protocols.features import embed
from unreel.recipes import page
from unreel.report import write_report
from unreel.report.overview import LEAST, OVERVIEW_FILE, Overview, _map, overview

HERE = Compute(workers=0, progress=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen pictures, dark or light, and a copy of the first."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(15):
        noise = np.random.default_rng(number).integers(0, 90, (24, 32, 3)) + 150 * (number % 2)
        (folder / f"{number:02d}.png").write_bytes(encode_image(noise.astype(np.uint8)))
    shutil.copy(folder / "00.png", folder / "copy.png")
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "net"
    folder.mkdir()
    (folder / "config.yaml").write_text("method:\n  name: simclr\n")
    save_encoder(create_encoder("r3d_tiny", seed=1), folder / "encoder.safetensors")
    write_report(folder, data=pictures, workers=0, progress=False)
    return folder


def test_what_is_alike_is_told(run: Path, pictures: Path) -> None:
    found = Overview.read(run)
    assert found is not None
    names = [clip.name for clip in found.clips]
    assert sorted(names) == sorted(path.name for path in pictures.iterdir())
    assert {names[i] for i in found.copies[0]} == {"00.png", "copy.png"}
    assert len(found.places) == len(found.clusters) == len(names)
    assert all(0 <= value <= 1 for place in found.places for value in place)
    vectors = embed(create_encoder("r3d_tiny", seed=1).eval(), pictures, **vars(HERE)).vectors.astype(float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for (query, _), *nearest in found.neighbours:
        order = sorted((i for i in range(len(names)) if i != query), key=lambda i: -cosine[query, i])
        np.testing.assert_allclose([v for _, v in nearest], cosine[query, order[: len(nearest)]], atol=1e-5)
        assert query not in [i for i, _ in nearest]
    for row in found.typical:
        assert len({found.clusters[i] for i in row}) == 1


def test_the_page_shows_it_again_without_the_files(run: Path, tmp_path: Path) -> None:
    text = write_report(run, out=tmp_path / "again.html").read_text()
    assert text.count('class="point') == 16
    assert "16 images of " in text
    assert "1 group of near-duplicates" in text
    assert "cluster 1" in text
    (tmp_path / "run").mkdir()
    shutil.copy(run / "config.yaml", tmp_path / "run")
    (tmp_path / "run" / OVERVIEW_FILE).write_text(json.dumps({"source": 3}))  # of another version
    assert "No files were looked at" in write_report(tmp_path / "run").read_text()


def test_a_part_is_chosen_by_a_key_and_said(run: Path, pictures: Path, tmp_path: Path) -> None:
    encoder = create_encoder("r3d_tiny", seed=1)
    manifest = Manifest.open(pictures)
    few, more = (overview(encoder, manifest, source="here", most=n, compute=HERE) for n in (LEAST, LEAST + 2))
    assert {c.name for c in few.clips} < {c.name for c in more.clips}  # who asks for more sees the same, and more
    assert (len(few.clips), few.num_asked) == (LEAST, 16)
    few.keep(tmp_path)
    assert Overview.read(tmp_path) == few
    with pytest.raises(DataError, match="at least 12"):
        overview(encoder, manifest, source="here", most=LEAST - 1, compute=HERE)


def test_a_map_keeps_groups_apart() -> None:
    """Both kinds of map, and embeddings that are all equal."""
    for n in (20, 80):
        centres = np.eye(2, 8, dtype=np.float32)[np.arange(n) % 2]
        vectors = centres + np.random.default_rng(0).normal(0, 0.02, (n, 8)).astype(np.float32)
        places = np.array(_map(vectors, Key(0))[0])
        one, other = places[::2], places[1::2]
        spread = max(np.ptp(one, axis=0).max(), np.ptp(other, axis=0).max())
        assert np.linalg.norm(one.mean(0) - other.mean(0)) > spread / 2
        assert _map(vectors, Key(0)) == _map(vectors, Key(0))
    assert np.isfinite(_map(np.ones((60, 8), np.float32), Key(0))[0]).all()


def test_a_run_looks_at_its_data_where_training_took_much_longer(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_TRAINED_FOR_ONE_SEEN", 1)
    call: dict[str, Any] = {"size": 16, "hidden_dim": 8, "out_dim": 8, "batch_size": 4, "workers": 0, "device": "cpu"}
    for steps, seen in ((2, None), (3, 12)):
        run = api.pretrain("simclr", pictures, encoder="r3d_tiny", out=tmp_path / str(steps), steps=steps, **call)
        found = Overview.read(run.path)
        assert (None if found is None else len(found.clips)) == seen
