"""The guides of docs/ are executed word for word, each in a folder of its own, as a stranger would have it.

What a guide finds there: ``my-videos`` (40 short videos, names that say nothing), ``clips.csv`` (a table with other
people's column names: video, patient, movement, operator), ``few.csv`` (path and label of twenty of them) and
``long.mp4`` (all of them, one after the other: 53 seconds).
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unreel.cli.main import main

ROOT = Path(__file__).parent.parent
NO_GUIDES = {"architecture.md"}
GUIDES = sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name not in NO_GUIDES)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every block that is executed, in order."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every guide starts from."""
    from unreel.data.manifest import Manifest
    from unreel.data.synthetic import ActionWorld
    from unreel.media import read_clip, write_video

    home = tmp_path_factory.mktemp("stranger")
    manifest = Manifest.open(ActionWorld(11, 40, 0, size_px=32, num_frames=16, audio_rate_hz=0).write(home / "world"))
    videos = home / "my-videos"
    videos.mkdir()
    rows = []
    for i, row in enumerate(manifest):
        name = f"{i:04d}.mp4"
        shutil.move(manifest.absolute(i), videos / name)
        rows.append((name, f"P{i % 10:02d}", row.labels["motion"], "abc"[i % 3]))
    clips = [(f"my-videos/{name}", *others) for name, *others in rows]
    shutil.rmtree(home / "world")
    for file, header, lines in (
        (home / "clips.csv", ("video", "patient", "movement", "operator"), clips),
        (home / "few.csv", ("path", "label"), [(name, movement) for name, _, movement, _ in rows[:20]]),
    ):
        with file.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([header, *lines])
    scenes = (read_clip(videos / name).pixels for name, *_ in rows)
    write_video(home / "long.mp4", (frame for scene in scenes for frame in scene), fps=12)
    return home


def shell(text: str, home: Path) -> None:
    """Run a block line by line: unreel's commands in this process, all else by the shell."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if re.match(r"unreel\s", line) and not re.search(r"[|<>]", line):
            assert main(shlex.split(line, comments=True)[1:]) == 0, line
        elif line.strip() and not line.startswith("#"):
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            done = subprocess.run(
                ["bash", "-euc", line], cwd=home, env={**os.environ, "PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_runs_word_for_word(
    page: str, stranger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    shutil.copytree(stranger, home)
    monkeypatch.chdir(home)
    monkeypatch.setenv("UNREEL_CACHE", str(home / "cache"))
    found = blocks(page)
    assert found, f"docs/{page} has no block that could be executed"
    names: dict[str, object] = {"__name__": "__main__"}
    for language, text in found:
        if language == "sh":
            shell(text, home)
        else:
            exec(compile(text, f"docs/{page}", "exec"), names)
    capsys.readouterr()
