"""The local page answers what it should, and harms nothing whatever it is asked."""

from __future__ import annotations

import csv
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
from fastapi.testclient import TestClient

from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.nn import create_encoder
from unreel.protocols.compute import Compute
from unreel.protocols.head import load_head
from unreel.serve.app import create_app
from unreel.serve.project import Project

HOSTILE = '"><img src=x onerror=alert(1)>.mp4'
BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def folder(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("served")
    manifest = Manifest.open(tiny_world)
    for i in range(12):
        shutil.copy(manifest.absolute(i), home / (HOSTILE if i == 0 else f"{i:02d}.mp4"))
    (home / "broken.mp4").write_bytes(b"no video")
    (home.parent / "secret.txt").write_text("secret")
    return home


@pytest.fixture(scope="module")
def net() -> Any:
    return create_encoder("r3d_tiny", seed=1).eval()


@pytest.fixture
def project(folder: Path, net: Any, tmp_path: Path) -> Project:
    return Project(net, folder, out=tmp_path / "labels", compute=Compute(workers=0, progress=False, store=folder / "s"))


@pytest.fixture
def client(project: Project) -> TestClient:
    return TestClient(create_app(project), base_url=BASE, raise_server_exceptions=False)


def test_search_puts_the_most_alike_first_and_moves_away_from_the_unwanted(project: Project) -> None:
    unit = project.embeddings.vectors / np.linalg.norm(project.embeddings.vectors, axis=1, keepdims=True)
    rows = project.rows
    found = project.search([rows[2]], top=3)
    others = [i for i in range(len(rows)) if i != 2]
    wanted = sorted(others, key=lambda i: -float(unit[i] @ unit[2]))[:3]
    assert [row for row, _ in found] == [rows[i] for i in wanted]
    assert found[0][1] == pytest.approx(float(unit[wanted[0]] @ unit[2]), abs=1e-6)
    away = dict(project.search([rows[2]], [found[0][0]], top=99))
    assert found[0][0] not in away
    assert len(away) == len(rows) - 2


def test_labels_are_kept_at_once_read_again_and_taken_back(project: Project, net: Any, folder: Path) -> None:
    row, other = project.rows[:2]
    project.label(row, ' a, "b" ')
    project.label(other, "c", 0.1, 0.9)
    with project.labels_file.open(newline="") as stream:
        assert [line["label"] for line in csv.DictReader(stream)] == ['a, "b"', "c"]
    again = Project(net, folder, out=project.out, compute=project.compute)
    assert again.labels == project.labels
    again.label(row, "")
    assert [known.label for known in again.labels] == ["c"]
    for wrong in (
        (99, "a"),
        (row, "a" * 201),
        (row, "a\nb"),
        (row, "a", 2.0, 1.0),
        (row, "a", 1.0),
        (row, "a", -1.0, 2.0),
    ):
        with pytest.raises(UsageError):
            again.label(*wrong)  # type: ignore[arg-type]
    project.labels_file.write_text("path,label,start_s,end_s\nother.mp4,a,,\n")
    with pytest.raises(DataError, match=r"labels\.csv:2: 'other.mp4'"):
        Project(net, folder, out=project.out, compute=project.compute)


def test_training_guesses_every_clip_and_keeps_a_head_that_predicts(client: TestClient, project: Project) -> None:
    assert client.post("/api/train", json={}).status_code == 400
    for i, row in enumerate(project.rows[:8]):
        span = {"start_s": 0.0, "end_s": 0.7} if i == 3 else {}
        assert client.post("/api/labels", json={"clip": row, "label": "ab"[i % 2], **span}).status_code == 200
    assert client.post("/api/train", json={}).json()["labels"] == {"a": 4, "b": 4}
    guesses = client.get("/api/predictions").json()["predictions"]
    assert [one["clip"] for one in guesses] == project.rows
    head = load_head(project.out / "head.safetensors")
    said = head.predict(project.embeddings.views).calibrated()
    assert [one["label"] for one in guesses] == [str(label) for label in said.labels]
    telling = [one["clip"] for one in client.get("/api/telling").json()["clips"]]
    assert telling == project.most_telling()
    assert telling
    assert set(telling) <= set(project.rows[8:])


def test_pages_pictures_and_ranges(client: TestClient, project: Project) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/app.js").headers["content-type"].startswith("text/javascript")
    listed = client.get("/api/clips?limit=5").json()
    assert (listed["count"], len(listed["clips"])) == (12, 5)
    assert listed["clips"][0]["name"] == HOSTILE
    row = project.rows[0]
    assert client.get(f"/pictures/{row}").headers["content-type"] == "image/webp"
    whole = client.get(f"/media/{row}").content
    part = client.get(f"/media/{row}", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, whole[5:10])


@pytest.mark.parametrize(
    "path",
    ["/media/99", "/media/-1", "/media/../../secret.txt", "/media/%2e%2e%2fsecret.txt", "/..%2f..%2fsecret.txt",
     "/media/0/../../secret.txt", "/app.js/../project.py", "/pictures/12", "/openapi.json", "/docs"],
)  # fmt: skip
def test_nothing_outside_the_data_is_readable(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code in (400, 404, 422), path
    assert b"secret" not in answer.content.replace(b"secret.txt", b"")


def test_other_pages_hosts_and_large_requests_are_refused(client: TestClient, project: Project) -> None:
    word = {"clip": project.rows[0], "label": "x"}
    assert client.post("/api/labels", json=word, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.post("/api/labels", content="clip=1", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post("/api/labels", json={**word, "more": 1}).status_code == 422
    huge = client.post("/api/labels", content=b"", headers={"Content-Length": "2000000000"})
    assert huge.status_code == 413

    def endless() -> Any:
        for _ in range(100):
            yield b"x" * 65536

    assert (
        client.post("/api/labels", content=endless(), headers={"Content-Type": "application/json"}).status_code == 413
    )
    assert project.labels == []


def test_fifty_requests_at_once_are_all_answered(client: TestClient, project: Project) -> None:
    def one(i: int) -> int:
        if i % 5 == 0:
            return client.post("/api/labels", json={"clip": project.rows[i % 12], "label": f"l{i}"}).status_code
        return client.post("/api/search", json={"wanted": [project.rows[i % 12]]}).status_code

    with ThreadPoolExecutor(50) as pool:
        assert set(pool.map(one, range(50))) == {200}
    assert len(project.labels) == len({i % 12 for i in range(0, 50, 5)})
